"""`ft runs compare` and `ft runs remove`, as a person and a program call them."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from finished import finished

from truetune import api, cli
from truetune.errors import UsageError
from truetune.registry.catalog import Catalog
from truetune.runs import receipt
from truetune.runs.run import Run
from truetune.runs.status import Status

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ft(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.setenv("TRUETUNE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)

    def call(*args: str) -> tuple[int, str, str]:
        code = cli.run(("runs", *args))
        return code, *capfd.readouterr()

    return call


def made(name: str, weights: str = "w", adapter: str | None = None, state: str = "finished") -> Run:
    run = finished(Path("runs") / name, weights, adapter)
    Status.update(run, state="running")
    Status.update(run, state=state, step=3, figures={"loss": 1.25})
    return run


def test_compare_shows_what_differs_and_the_figures_of_both(ft: Call) -> None:
    one, two = made("one"), made("two", adapter="runs/one/adapter")
    body = json.loads((two.folder / "resolved.json").read_text())
    body["config"]["training"]["learning_rate"] = 1e-3
    (two.folder / "resolved.json").write_text(json.dumps(body))
    receipt.write(two, "eval", {"base": {"loss": 3.0}, "tuned": {"loss": 1.5}})
    found = json.loads(ft("compare", "one", "two", "--json")[1])
    assert [run["id"] for run in found["runs"]] == ["one", "two"]
    assert found["settings"] == {
        "training.learning_rate": [2e-4, 1e-3],
        "model.adapter": [None, "runs/one/adapter"],
    }
    figures = found["figures"]
    assert figures["eval.tuned.loss"] == [2.0, 1.5] and figures["train.steps"] == [3, 3]
    assert figures["state"] == ["finished", "finished"] and figures["loss"] == [1.25, 1.25]
    out = ft("compare", "one", "two")[1]
    assert "0.001" in out and "1.5" in out and "—" in out
    receipt.path(two, "eval").unlink()
    assert json.loads(ft("compare", "one", "two", "--json")[1])["figures"]["eval.tuned.loss"] == [2.0, None]
    (two.folder / "receipts" / "train.json").write_bytes(b"torn")
    assert ft("compare", "one", "two")[0] == 0
    assert "all settings are the same" in ft("compare", str(one.folder), "one")[1]
    assert ft("compare", "one", "three")[0] == 3


def test_remove_takes_the_run_and_its_registration(ft: Call) -> None:
    run = made("20261121-143005-starter-sums-x7k2")
    Catalog().register(run, "sums")
    code, _, err = ft("remove", "20261121")
    assert code == 2 and "--yes" in err and run.folder.is_dir()
    gone = json.loads(ft("remove", "20261121", "--yes", "--json")[1])
    assert gone["adapters"] == ["sums@1"] and gone["bytes"] > 500
    assert not run.folder.exists() and not any(Path("runs").iterdir()) and Catalog().all() == []
    assert ft("remove", "20261121", "--yes")[0] == 3


@pytest.mark.parametrize(("answer", "stands"), [("n\n", True), ("y\n", False)])
def test_a_person_is_asked(ft: Call, monkeypatch: pytest.MonkeyPatch, answer: str, stands: bool) -> None:
    run = made("mine")
    read, write = os.pipe()
    os.write(write, answer.encode())
    os.close(write)
    with os.fdopen(read) as stream:
        monkeypatch.setattr(sys, "stdin", Person(stream))
        code, _, err = ft("remove", "mine")
    assert "Delete" in err and run.folder.exists() is stands and code == (2 if stands else 0)


class Person:
    """A terminal that answers."""

    def __init__(self, stream: object) -> None:
        self.stream = stream

    def isatty(self) -> bool:
        return True

    def __getattr__(self, name: str) -> object:
        return getattr(self.stream, name)


def test_what_is_in_use_stays(ft: Call) -> None:
    run = made("one", "1")
    catalog = Catalog()
    catalog.register(run, "support")
    for stage in ("production", "staging"):
        catalog.promote("support", stage)
        code, _, err = ft("remove", "one", "--yes")
        assert code == 2 and f"it is in {stage}" in err and "--stage none" in err
    catalog.promote("support", None)
    child = made("two", "2", str(run.folder / "adapter"), state="stopped")
    code, _, err = ft("remove", "one", "--yes")
    assert code == 2 and "two went on from it and is not finished" in err
    Status.update(child, state="finished")
    catalog.register(child, "child")
    code, _, err = ft("remove", "one", "--yes")
    assert code == 2 and "child@1 went on from it" in err
    assert run.folder.is_dir() and catalog.find("support@1")["stage"] is None
    assert ft("remove", "two", "--yes")[0] == 0 and ft("remove", "one", "--yes")[0] == 0


def test_a_run_that_works_stays(ft: Call) -> None:
    run = made("one")
    Status.update(run, state="running")
    code, _, err = ft("remove", "one", "--yes")
    assert code == 2 and "ft runs stop one" in err and run.folder.is_dir()
    assert json.loads((run.folder / "status.json").read_text())["host"] == socket.gethostname()
    Status.update(run, state="stopped")
    with run.lock(), pytest.raises(UsageError, match="is working on this run"):
        api.load("run_remove")(str(run.folder))
    assert run.folder.is_dir()


def test_a_name_takes_all_its_versions_of_one_run_or_none(ft: Call) -> None:
    run = made("one")
    catalog = Catalog()
    catalog.register(run, "first")
    catalog.register(run, "second")
    catalog.promote("second", "production")
    assert ft("remove", "one", "--yes")[0] == 2
    assert {each["name"] for each in catalog.all()} == {"first", "second"}
    catalog.promote("second", None)
    assert ft("remove", "one", "--yes")[0] == 0 and catalog.all() == []
