"""A run that learns nothing ends early; a loss that jumps is noted; a disk that is nearly full is said."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_run

from truetune.engines.base import Plan, StepResult
from truetune.errors import TrainingError
from truetune.listener import unheard
from truetune.runs.metrics import Metrics
from truetune.runs.run import Run
from truetune.train import guards
from truetune.train.guards import WINDOW, Guards
from truetune.train.state import State

Usage = namedtuple("Usage", "total used free")


class Idle(small_run.Small):
    """Computes a gradient and does nothing with it."""

    norm = 1.0

    def step(self, plan: Plan, lr: float) -> StepResult:
        return StepResult(1.0, self.norm, plan.tokens, len(plan.examples))


class Flat(Idle):
    norm = 0.0


@pytest.mark.parametrize(("engine", "why"), [(Idle, "no trained tensor differs"), (Flat, "every gradient was zero")])
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

    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10**9, 10**9, 100))
    small_run.start(tmp_path / "run", heard)
    assert len(said) == 1 and "checkpoints.keep" in said[0]
