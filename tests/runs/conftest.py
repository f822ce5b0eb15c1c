"""Each test of runs has a home and a working folder of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from proven_run import ADAPTER, BASE, EVAL, card, data_body, train_body

from truetune.runs import receipt
from truetune.runs.run import Run
from truetune.runs.status import Status


@pytest.fixture(autouse=True)
def place(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRUETUNE_HOME", str(tmp_path_factory.mktemp("home")))
    work = tmp_path_factory.mktemp("work")
    monkeypatch.chdir(work)
    return work


@pytest.fixture
def make(place: Path) -> Callable[..., Run]:
    """A new run: `make("name")` in ./runs, or in a folder."""

    def build(name: str | Path = "one", text: bytes = b"version: 1\n", **env: Any) -> Run:
        folder = name if isinstance(name, Path) else place / "runs" / name
        return Run.create(folder, train_yml=text, resolved={"schema": 1, "seed": 42}, env={"schema": 1, **env})

    return build


@pytest.fixture
def run(make: Callable[..., Run]) -> Run:
    return make()


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "inputs" / "rows.jsonl"
    path.parent.mkdir()
    path.write_text('{"text": "hello"}\n')
    return path


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    for name in BASE:
        (folder / name).write_text(name)
    return folder


@pytest.fixture
def proven(run: Run, rows: Path, base: Path) -> Run:
    """A finished run with three receipts and a card, all as it should be."""
    (run.folder / "rejects.jsonl").write_text("{}\n")
    (run.folder / "adapter").mkdir()
    for name in ADAPTER:
        (run.folder / name).write_text(name)
    receipt.write(run, "data", data_body(run, rows))
    receipt.write(run, "train", train_body(run, base))
    card(run, receipt.write(run, "eval", EVAL))
    Status.update(run, state="finished")
    return run
