"""A run that learns nothing ends early; a loss that jumps is noted; a disk that is nearly full is said."""

from __future__ import annotations

import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_run

from truetune.config import Amount, Cadence
from truetune.data.steps import Steps
from truetune.engines.base import Plan, StepResult
from truetune.errors import ResourceError, TrainingError
from truetune.listener import unheard
from truetune.runs import durable
from truetune.runs.checkpoints import Checkpoints
from truetune.runs.metrics import Metrics
from truetune.runs.run import Run
from truetune.train import guards, room
from truetune.train.guards import WINDOW, Guards
from truetune.train.plan import Rules, course
from truetune.train.state import State

Usage = namedtuple("Usage", "total used free")


class Idle(small_run.Small):
    """Computes a gradient and does nothing with it."""

    norm = 1.0

    def step(self, plan: Plan, lr: float) -> StepResult:
        return StepResult(1.0, self.norm, plan.tokens, len(plan.examples))


class Flat(Idle):
    norm = 0.0


@pytest.mark.parametrize(
    ("engine", "why"), [(Idle, "no trained tensor differs"), (Flat, "every gradient of the last 10 steps was zero")]
)
def test_a_run_that_learns_nothing_ends_early(
    engine: Any, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small_run, "STEPS", 50)
    run = Run.create(tmp_path / "run", train_yml=b"", resolved={}, env={})
    with pytest.raises(TrainingError) as error:
        small_run.build(run, engine(), State(token_budget=64), unheard).fit()
    assert error.value.code == "train.nothing_learned" and why in error.value.message
    assert Metrics(run.folder / "metrics.jsonl").read("train")[-1]["step"] == guards.LOOK


def test_what_a_jump_is() -> None:
    guard = Guards("run")
    noise = np.random.default_rng(0).normal(2.0, 0.1, WINDOW)
    assert [guard.jump(float(loss)) for loss in noise] == [None] * WINDOW
    assert guard.jump(2.3) is None
    usual = guard.jump(4.0)
    assert usual is not None and abs(usual - 2.0) < 0.1


def test_a_jump_is_an_event_of_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Jumping(small_run.Small):
        count = 0

        def step(self, plan: Plan, lr: float) -> StepResult:
            self.count += 1
            done = super().step(plan, lr)
            return StepResult(9.0 if self.count == 25 else 1.0, done.grad_norm, done.tokens, done.supervised)

    monkeypatch.setattr(small_run, "STEPS", 26)
    run = Run.create(tmp_path / "run", train_yml=b"", resolved={}, env={})
    said: list[str] = []
    heard = lambda kind, figures: said.append(figures["text"]) if kind == "warning" else None  # noqa: E731
    small_run.build(run, Jumping(), State(token_budget=64), heard).fit()
    (event,) = Metrics(run.folder / "metrics.jsonl").read("event")
    assert len(event["rows"]) == small_run.BATCH and "; its rows: row " in said[0]
    assert (event["event"], event["step"], event["loss"], event["usual"]) == ("loss_jump", 25, 9.0, 1.0)


def test_a_disk_that_is_nearly_full_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    def heard(kind: str, figures: dict[str, Any]) -> None:
        if kind == "warning":
            said.append(figures["text"])

    monkeypatch.setattr(room, "bytes_of", lambda folder: 100)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10**9, 10**9, 150))
    small_run.start(tmp_path / "run", heard)
    assert len(said) == 1 and "checkpoints.keep" in said[0]


def test_a_checkpoint_that_has_no_room_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the second the disk has become full: the run ends, both are whole, and no byte of a third was written."""
    saved: list[int] = []

    def heard(kind: str, figures: dict[str, Any]) -> None:
        if kind == "checkpoint":
            saved.append(figures["step"])
        if len(saved) == 2:
            monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10**9, 10**9, 100))

    with pytest.raises(ResourceError, match="everything saved before is whole") as error:
        small_run.start(tmp_path / "run", heard)
    assert (error.value.code, error.value.exit_code) == ("disk.full", 4)
    kept = Checkpoints(Run(tmp_path / "run"))
    assert [each.step for each in kept.list()] == saved == [1, 2]
    assert all(durable.check(each.folder) == [] for each in kept.list())
    assert list(kept.root.glob(".*")) == []


@pytest.mark.parametrize(
    ("save", "evaluate", "best", "checkpoints"),
    [
        (None, None, False, 1),
        ("2 steps", None, False, 4),
        ("2 steps", "1 steps", True, 5),
        ("10 min", None, True, 5),
        ("5 steps", None, False, 3),
        ("1 epoch", None, False, 4),
    ],
)
def test_what_a_run_will_save(save: str | None, evaluate: str | None, best: bool, checkpoints: int) -> None:
    """Of 8 steps, 2 an epoch, three kept: those, the best, and the one that is written before the oldest goes."""
    often = [Cadence.parse(each) if each else None for each in (evaluate, save)]
    rules = Rules(evaluate=often[0], save=often[1], keep=3, best=best)
    whole = Amount(0, percent=True)
    path = course(Steps(8, 4, 1), epochs=4, max_steps=None, learning_rate=1.0, scheduler="constant", warmup=whole)
    assert path.total == 8
    assert room.needed(1000, 10, rules, path, 0) == checkpoints * 1000 + 10


def test_a_disk_that_is_too_small_is_said_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Told(small_run.Small):
        def describe(self) -> dict[str, Any]:
            return {"parameters": 10**9, "trained_parameters": 10**6}

    config = {"method": {"type": "lora"}, "training": {"optimizer": "adamw", "ema": None}}
    run = Run.create(tmp_path / "run", train_yml=b"", resolved={"config": config}, env={}, listed=False)
    engine, state = Told(), State(token_budget=64)
    loop, rules = small_run.build(run, engine, state, unheard), replace(small_run.RULES, best=False)
    for free, enough in ((39_000_000, False), (40_000_001, True)):  # 3 checkpoints of 12 MB, and 4 MB of a result
        monkeypatch.setattr(shutil, "disk_usage", lambda folder, free=free: Usage(10**12, 10**12, free))
        if enough:
            room.refuse_small(run, engine, rules, loop.course, 0)  # type: ignore[arg-type]
            continue
        with pytest.raises(ResourceError, match=r"checkpoints of 12\.0 MB each") as error:
            room.refuse_small(run, engine, rules, loop.course, 0)  # type: ignore[arg-type]
        assert (error.value.code, error.value.exit_code) == ("disk.too_small", 4)
        assert "checkpoints.keep" in (error.value.finding.hint or "")
