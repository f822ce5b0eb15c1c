"""Wall clocks that jump by an hour or ten years, forward and back: order, cadences, times to go, resumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import clocks
import pytest
import small_run
import whole_runs
from clocks import JUMPS, Clock

from truetune.config import Cadence
from truetune.listener import unheard
from truetune.runs.checkpoints import Checkpoints
from truetune.runs.find import find, newest_resumable
from truetune.runs.metrics import Metrics
from truetune.runs.run import Run
from truetune.train import prove
from truetune.train.plan import Rules
from truetune.train.state import State


def test_runs_by_a_clock_that_jumps(tmp_path: Path) -> None:
    """Killed anywhere, resumed, and looked at on the way."""
    found = clocks.hunt(60, tmp_path)
    assert found["wrong"] == []
    assert found["tried"] >= 60 and found["runs"] >= 2


@pytest.mark.parametrize("jump", JUMPS)
def test_the_newest_run_is_the_one_made_last(jump: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "train.yml"
    file.write_text("version: 1\n")
    clock = Clock(0, rare=10**9)
    with clocks.wrong(clock):
        for number, place in enumerate(("runs/one", "elsewhere/two", "runs/three")):
            clock.jump(number * jump)
            env = {"source": {"path": str(file), "sha256": ""}}
            Run.create(Path(place), train_yml=b"", resolved={"schema": 1}, env=env)
            assert find("last").id == Path(place).name
            found = newest_resumable(file)
            assert found is not None and found.id == Path(place).name


@pytest.mark.parametrize(("minutes", "saved"), [(11, [1, 2, 3, 4, 5, 6]), (4, [3, 6]), (0, [6])])
def test_ten_minutes_are_those_of_the_monotonic_clock(
    minutes: int, saved: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step takes so many of its minutes, while the wall clock jumps at every look."""
    run = Run.create(tmp_path / "run", train_yml=b"", resolved={"schema": 1}, env={}, listed=False)
    with clocks.wrong(Clock(1, rare=1)), run.lock():
        engine = small_run.Small()
        rules = Rules(evaluate=None, save=Cadence(10, "minutes"), keep=9, best=False)
        loop = small_run.build(run, engine, State(token_budget=64), unheard, rules)
        now, step = [loop.save_due.last], engine.step

        def slow(plan: object, lr: float) -> object:
            now[0] += minutes * 60
            return step(plan, lr)  # type: ignore[arg-type]

        monkeypatch.setattr(engine, "step", slow)
        monkeypatch.setattr("truetune.train.loop.time.monotonic", lambda: now[0])
        loop.fit()
    assert [each.step for each in Checkpoints(run).list()] == saved


@pytest.mark.parametrize("jump", JUMPS)
def test_a_proof_does_not_wait_for_years(jump: float, tmp_path: Path) -> None:
    """The pace of its steps is that of most of them."""
    run = Run.create(tmp_path / "run", train_yml=b"", resolved={"schema": 1}, env={}, listed=False)
    clock = Clock(0, rare=10**9)
    with clocks.wrong(clock):
        for step in range(1, 9):
            clock.jump(jump if step > 4 else 0.0)
            Metrics(run.folder / "metrics.jsonl").append("train", step, loss=1.0)
    assert 0 < prove.pace(run) < 1


def test_a_clock_that_is_right_finds_the_same(tmp_path: Path) -> None:
    """The watch itself: a run that says it goes on for a year is noticed."""
    run = small_run.start(tmp_path / "run")
    assert clocks.seen(run.folder) == []
    path = run.folder / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in reversed(rows)))
    assert clocks.seen(run.folder)


@pytest.mark.slow
def test_a_training_by_a_clock_that_jumps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real one, stopped and resumed: the adapter is that of a right clock, and the receipts verify."""
    pytest.importorskip("torch")
    import truetune as ft
    from truetune.errors import Stopped
    from truetune.runs import durable

    monkeypatch.setenv("TRUETUNE_HOME", str(tmp_path / "home"))

    def settings(name: str) -> dict[str, Any]:
        (tmp_path / name).mkdir()
        return whole_runs.settings(tmp_path / name, 4)

    def stop(kind: str, figures: dict[str, Any]) -> None:
        if kind == "train" and figures["step"] == 2:
            (tmp_path / "wrong" / "run" / "stop").touch()

    straight = ft.train(settings("right")).folder
    with clocks.wrong(Clock(2)) as clock:
        with pytest.raises(Stopped):
            ft.train(settings("wrong"), listener=stop)
        folder = ft.train(from_=str(tmp_path / "wrong" / "run")).folder
        assert ft.receipt_verify(str(folder))["verdict"] == "ok"
        assert ft.status()["runs"][0]["state"] == "finished"
    assert clock.jumps > 2
    name = "adapter/adapter_model.safetensors"
    assert durable.digest(folder / name) == durable.digest(straight / name)
