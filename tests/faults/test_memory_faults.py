"""Memory runs out at a random micro-batch of training or evaluation: same curve, same adapter, exact counts."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from safetensors.numpy import load_file

from truetune.config import Amount, Cadence
from truetune.data.steps import Steps
from truetune.engines.base import EngineSpec, Method
from truetune.engines.torch import tiny
from truetune.engines.torch.engine import TorchEngine
from truetune.runs.checkpoints import Checkpoints
from truetune.runs.metrics import Metrics
from truetune.runs.run import Run
from truetune.testing import examples
from truetune.train.loop import Loop, Rules
from truetune.train.plan import course
from truetune.train.state import State

pytestmark = pytest.mark.slow

TRAIN, HELD_OUT, BUDGET = examples(20, seed=1), examples(5, seed=2), 64
POINTS = 30


def trained(folder: Path, model: Path, fails_at: int = 0) -> tuple[State, dict[str, float], dict[str, Any], int]:
    """State, losses, adapter, and how many micro-batches there were; the `fails_at`-th finds no memory."""
    run = Run.create(folder, train_yml=b"", resolved={}, env={}, listed=False)
    method = Method(r=4, alpha=8, dropout=0.0)
    engine = TorchEngine(EngineSpec(model=model, method=method, token_budget=BUDGET))
    path = course(
        Steps(len(TRAIN), 5, 3),
        epochs=100,
        max_steps=6,
        learning_rate=1e-3,
        scheduler="cosine",
        warmup=Amount(0, percent=True),
    )
    real, calls = engine.forward.loss, [0]

    def failing(batch: Any) -> Any:
        calls[0] += 1
        if calls[0] == fails_at:
            raise torch.OutOfMemoryError("planted")
        return real(batch)

    engine.forward.loss = failing
    state = State(token_budget=BUDGET)
    rules = Rules(evaluate=Cadence(2, "steps"), save=None)
    Loop(run, engine, path, TRAIN, HELD_OUT, rules, state).fit()
    rows = Metrics(run.folder / "metrics.jsonl").read()
    losses = {f"{row['kind']} {row['step']}": row["loss"] for row in rows if row["kind"] in ("train", "eval")}
    last = Checkpoints(run).find("last").folder
    return state, losses, load_file(last / "adapter_model.safetensors"), calls[0]


def test_at_thirty_points(tmp_path: Path) -> None:
    model = tiny.make(tmp_path / "model", "llama")
    calm, losses, adapter, calls = trained(tmp_path / "calm", model)
    draw = random.Random(0)
    for number, point in enumerate(draw.choices(range(1, calls + 1), k=POINTS)):
        state, found, tensors, _ = trained(tmp_path / str(number), model, point)
        assert len(state.oom) == 1 and state.token_budget < BUDGET, point
        counts = ("step", "examples", "tokens", "supervised", "best_step")
        assert [getattr(state, name) for name in counts] == [getattr(calm, name) for name in counts], point
        assert found.keys() == losses.keys()
        assert np.allclose([*found.values()], [*losses.values()], rtol=1e-4), point
        apart = np.sqrt(sum(float(((tensors[name] - adapter[name]) ** 2).sum()) for name in adapter))
        length = np.sqrt(sum(float((adapter[name] ** 2).sum()) for name in adapter))
        assert apart <= 1e-4 * length, point
