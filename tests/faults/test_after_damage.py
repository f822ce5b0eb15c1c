"""What a run finds damaged, moved or otherwise when it goes on: its best checkpoint, its log, its surroundings."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import small_run

from truetune.engines.base import Plan, StepResult, Usage
from truetune.errors import ResourceError, TrainingError
from truetune.listener import unheard
from truetune.runs import durable
from truetune.runs.checkpoints import Checkpoints
from truetune.runs.run import Run
from truetune.runs.status import Status
from truetune.runs.verify import verify
from truetune.train import carry, guards, receipts, surroundings
from truetune.train.guards import Guards
from truetune.train.state import State


class Rising(small_run.Small):
    """Its held-out loss is least after step 2."""

    def loss(self, plan: Plan) -> Any:
        return replace(super().loss(plan), loss=plan.denominator * abs(self.steps - 2.5))

    steps = 0

    def step(self, plan: Plan, lr: float) -> StepResult:
        self.steps += 1
        return super().step(plan, lr)


def damaged(run: Run, step: int) -> None:
    path = run.folder / "checkpoints" / f"step-{step:06d}" / small_run.KEPT[0]
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def trained(folder: Path) -> tuple[Run, Rising, State]:
    run = Run.create(folder, train_yml=b"", resolved={"schema": 1}, env={"schema": 1}, listed=False)
    engine, state = Rising(), State(token_budget=64)
    small_run.build(run, engine, state, unheard).fit()
    assert (state.best_step, state.step) == (2, small_run.STEPS)
    return run, engine, state


def test_a_best_checkpoint_that_is_damaged_gives_way_to_the_last_step(tmp_path: Path) -> None:
    """At the end of a run; it is named and kept aside, and nothing of it is loaded."""
    run, engine, state = trained(tmp_path / "run")
    assert Checkpoints(run).best() == {"step": 2, "eval_loss": 0.5}
    damaged(run, 2)
    said, before = list[str](), engine.weights.copy()
    assert carry.settle(run, engine, state, True, said.append) == (6, state.eval_loss)  # type: ignore[arg-type]
    assert len(said) == 1 and "step-2 is damaged (adapter_model.safetensors)" in said[0]
    assert np.array_equal(engine.weights, before) and state.best_step is None
    assert Checkpoints(run).best() is None
    assert (run.folder / "checkpoints" / "quarantine" / "step-000002").is_dir()


def test_a_whole_best_checkpoint_is_the_result(tmp_path: Path) -> None:
    run, engine, state = trained(tmp_path / "run")
    before = engine.weights.copy()
    assert carry.settle(run, engine, state, True, pytest.fail) == (2, 0.5)  # type: ignore[arg-type]
    assert not np.array_equal(engine.weights, before)
    assert carry.settle(run, engine, state, False, pytest.fail)[0] == 6  # type: ignore[arg-type]


def test_a_resume_does_not_go_on_with_a_damaged_best(tmp_path: Path) -> None:
    run, _, state = trained(tmp_path / "run")
    damaged(run, 2)
    said = list[str]()
    carry.take_up(run, state, said.append)
    assert len(said) == 1 and "step-2 is damaged" in said[0]
    assert (state.best_step, state.best_loss, Checkpoints(run).best()) == (None, None, None)


def test_a_jump_is_seen_right_after_a_resume() -> None:
    """The usual loss, and the gradients that were zero, are those of the log."""
    rows = [{"loss": 2.0 + 0.01 * (place % 3), "grad_norm": 1.0} for place in range(30)]
    assert Guards("run").jump(4.0) is None
    usual = Guards("run", rows).jump(4.0)
    assert usual is not None and abs(usual - 2.01) < 0.01

    engine = small_run.Small()
    flat = [{"loss": 1.0, "grad_norm": 0.0}] * (guards.LOOK - 1)
    with pytest.raises(TrainingError, match="every gradient of the last 10 steps"):
        Guards("run", flat).learning(500, 0.0, engine)  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match="no trained tensor differs"):
        Guards("run", flat).learning(500, 1.0, engine)  # type: ignore[arg-type]
    engine.weights += 1
    Guards("run", flat).learning(500, 1.0, engine)  # type: ignore[arg-type]


def test_other_surroundings_are_told_and_kept() -> None:
    here = surroundings.of({"engine": "torch", "device": "cpu", "threads": 2, "parameters": 9})
    assert {"torch", "truetune", "numpy", "device", "threads"} <= here.keys() and "parameters" not in here
    state = State(step=4)
    assert surroundings.noted(state, here) == "" and surroundings.noted(state, here) == ""
    text = surroundings.noted(state, here | {"torch": "0.1", "threads": "8"})
    assert f"torch ({here['torch']} → 0.1), threads (2 → 8)" in text and "from step 4 on" in text
    assert state.moves == [{"step": 4, "fields": {"torch": [here["torch"], "0.1"], "threads": ["2", "8"]}}]
    assert State.from_json(state.to_json()) == state


def test_a_copy_of_a_run_that_goes_on_is_interrupted(tmp_path: Path) -> None:
    """The process works on the original, wherever that is moved."""
    run = Run.create(tmp_path / "run", train_yml=b"", resolved={}, env={}, listed=False)
    Status.update(run, state="running", steps=9)
    copy = Run(shutil.copytree(run.folder, tmp_path / "copy"))
    assert (Status.read(run).state, Status.read(copy).state) == ("running", "interrupted")
    assert Status.read(copy).resumable
    assert Status.read(Run(shutil.move(run.folder, tmp_path / "moved"))).state == "running"
    assert Status.update(copy, state="running").inode == copy.folder.stat().st_ino
    assert Status.read(copy).state == "running"


def test_a_full_disk_does_not_hide_what_ended_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run.create(tmp_path / "run", train_yml=b"", resolved={}, env={}, listed=False)

    def full(*args: Any, **values: Any) -> None:
        raise ResourceError("no space is left", code="disk.full")

    monkeypatch.setattr(durable, "write_json", full)
    for error in (KeyboardInterrupt(), TrainingError("a step is not a number", code="train.not_finite")):
        carry._record_end(run, error)
    with pytest.raises(ResourceError):
        Status.update(run, state="failed")


@pytest.mark.parametrize(("loss", "fails"), [("sigmoid", True), ("hinge", False)])
def test_a_gradient_of_zero_in_one_step(loss: str, fails: bool, tmp_path: Path) -> None:
    """A hinge has none where every pair is told apart; elsewhere it says that something is wrong."""
    config = {
        "training": {"objective": "dpo", "optimizer": "adamw", "ema": None},
        "method": {"type": "lora"},
        "preference": {"loss": loss},
    }
    run = Run.create(tmp_path / "run", train_yml=b"", resolved={"config": config}, env={}, listed=False)
    (run.folder / "adapter").mkdir()
    promise = {"examples": 4, "supervised": 4, "tokens": 9}
    state = State(step=2, examples=4, supervised=4, min_grad_norm=0.0, max_grad_norm=1.0)
    facts = {"describe": dict, "changed": lambda: (1, 1), "usage": lambda: Usage(0, 0, 0)}
    engine: Any = SimpleNamespace(**facts)
    written = partial(receipts.write_train, run, state, engine, promise, {}, run.folder / "adapter", 2)
    if fails:
        with pytest.raises(TrainingError, match="zero in some step"):
            written()
    else:
        written()
    (item,) = (item for item in verify(run) if item.name == "gradient")
    assert item.failed is fails
    state.max_grad_norm = 0.0
    with pytest.raises(TrainingError, match="nothing was learned"):
        written()
