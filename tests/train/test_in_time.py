"""A step that takes longer than a SIGTERM's grace is given up between two micro-batches, and nothing else is lost."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from test_resume_table import BUDGET, Case, build, models, trained  # noqa: F401 (the fixture)

from truetune.errors import Forced
from truetune.runs import alike
from truetune.runs.checkpoints import Checkpoints
from truetune.runs.metrics import Metrics
from truetune.runs.run import Run
from truetune.train import stops
from truetune.train.carry import take_up
from truetune.train.state import State
from truetune.train.stops import Stops

SFT, DPO, MLX = Case("torch", "lora", "sft"), Case("torch", "lora", "dpo"), Case("mlx", "lora", "sft")


def met(loop: Any, where: str, number: int) -> list[int]:
    """Have the loop meet a SIGTERM at the n-th micro-batch of a verb (`step`, `loss` or `scores`); the numbers of the
    micro-batches that began since."""
    real, begun, inside = getattr(loop.engine, where), [0], list[bool]()
    after = list[int]()

    def watched(*args: Any, **options: Any) -> Any:
        inside.append(True)
        try:
            return real(*args, **options)
        finally:
            inside.pop()

    setattr(loop.engine, where, watched)
    hurry = loop.signals.hurry

    def between() -> None:
        begun[0] += bool(inside)
        if begun[0] >= number and inside:
            after.append(begun[0])
        if begun[0] == number and len(after) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        hurry()

    loop.signals.hurry = between
    return after


@pytest.mark.parametrize(
    ("case", "where", "number", "kept"),
    [
        (SFT, "step", 9, 4),  # the fifth has three micro-batches: after its first
        (SFT, "loss", 3, 2),
        (DPO, "scores", 2, 0),  # what the base thinks of the rows, before the first step
        pytest.param(MLX, "step", 9, 3, marks=pytest.mark.slow),
    ],
)
def test_a_step_that_is_too_long(
    case: Case,
    where: str,
    number: int,
    kept: int,
    models: Any,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With no grace at all: out before the next micro-batch, saved as it stood before the step; the resume is exact."""
    if case.engine == "mlx":
        pytest.importorskip("mlx_lm", reason="MLX is not installed")
    model = models("llama")
    straight = trained(case, model, tmp_path / "straight")
    run = Run.create(tmp_path / "run", train_yml=b"", resolved={}, env={}, listed=False)
    loop = build(case, model, run, State(token_budget=BUDGET), lambda kind, figures: None)
    after = met(loop, where, number)
    with monkeypatch.context() as patch:
        patch.setattr(stops, "GRACE", 0.0)
        assert loop.fit() == "SIGTERM"
    assert len(after) == 1, "a micro-batch began after the grace"
    done = [row["step"] for row in Metrics(run.folder / "metrics.jsonl").read("train")]
    assert loop.state.step == kept and done == [*range(1, kept + 1)]
    checkpoint = Checkpoints(run).newest_good(pytest.fail)
    assert checkpoint is not None and checkpoint.step == kept
    state = State.from_json(Checkpoints(run).load_state(checkpoint))
    again = build(case, model, run, state, lambda kind, figures: None)
    again.engine.restore(checkpoint.folder)
    take_up(run, state, pytest.fail)
    assert again.fit() == "done"
    assert {part: name for part, name in alike.compare(straight, run).items() if name} == {}


def test_within_the_grace_the_step_is_finished(models: Any, tmp_path: Path) -> None:  # noqa: F811
    run = Run.create(tmp_path / "run", train_yml=b"", resolved={}, env={}, listed=False)
    loop = build(SFT, models("llama"), run, State(token_budget=BUDGET), lambda kind, figures: None)
    assert met(loop, "step", 9) == [] and loop.fit() == "SIGTERM"
    assert loop.state.step == 5 and Checkpoints(run).find("last").step == 5


def test_a_batch_system_warns_before_it_ends(tmp_path: Path) -> None:
    """SIGUSR1 has no end of grace; the SIGTERM that follows has one, and ends nothing at once; the next signal does."""
    run = Run.create(tmp_path / "run", train_yml=b"", resolved={}, env={}, listed=False)
    with Stops(run) as stop:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert (stop.reason(), stop.until) == ("SIGUSR1", float("inf"))
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.reason() == "SIGTERM" and stop.until < float("inf")
        with pytest.raises(Forced):
            os.kill(os.getpid(), signal.SIGTERM)
