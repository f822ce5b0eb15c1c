"""Each test of runs has a home and a working folder of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from truetune.runs.run import Run


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
