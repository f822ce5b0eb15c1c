"""Memory that runs out at the n-th micro-batch of a training or an evaluation, on a tiny model."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
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
from truetune.train.loop import Loop
from truetune.train.plan import Rules, course
from truetune.train.state import State

TRAIN, HELD_OUT, BUDGET = examples(20, seed=1), examples(5, seed=2), 64
SEEDS = 5
DROPOUT = 0.05
COUNTED = ("step", "examples", "tokens", "supervised")


@dataclass(frozen=True)
class Trained:
    """A training: its state, its losses by kind and step, its adapter, and how many micro-batches it took."""

    state: State
    losses: dict[str, float]
    adapter: dict[str, NDArray[np.float32]]
    calls: int

    @property
    def curve(self) -> NDArray[np.float64]:
        return np.array([*self.losses.values()])


def trained(folder: Path, model: Path, fails_at: int = 0, dropout: float = 0.0, seed: int = 0) -> Trained:
    """Six steps and four evaluations; the `fails_at`-th micro-batch finds no memory. `seed` is of what is drawn by
    dropout: the adapter starts as with every other."""
    run = Run.create(folder, train_yml=b"", resolved={}, env={}, listed=False)
    method = Method(r=4, alpha=8, dropout=dropout)
    engine = TorchEngine(EngineSpec(model=model, method=method, token_budget=BUDGET))
    if seed:
        torch.manual_seed(seed)
        engine.rng = {"torch": torch.get_rng_state()}
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
    return Trained(state, losses, load_file(last / "adapter_model.safetensors"), calls[0])


def hunt(count: int, room: Path, seed: int = 0) -> dict[str, Any]:
    """`count` trainings without dropout that run out of memory once, at random; and as many with it, whose curves must
    be no farther from the mean of those of five seeds than two of these are from each other."""
    model = tiny.make(room / "model", "llama")
    calm, draw, wrong = trained(room / "calm", model), random.Random(seed), list[str]()
    for number in range(count):
        at = draw.randint(1, calm.calls)
        found = trained(room / f"still-{number}", model, at)
        wrong += [f"at {at}: {text}" for text in miscounted(found, calm) + apart(found, calm)]
    seeds = [trained(room / f"seed-{number}", model, dropout=DROPOUT, seed=number) for number in range(SEEDS)]
    centre = np.mean([each.curve for each in seeds], axis=0)
    spread = max(distance(one.curve, other.curve) for one, other in combinations(seeds, 2))
    farthest = 0.0
    for number in range(count):
        at = draw.randint(1, calm.calls)
        found = trained(room / f"drawn-{number}", model, at, DROPOUT)
        far = distance(found.curve, centre)
        farthest = max(farthest, far)
        wrong += [f"dropout, at {at}: {text}" for text in miscounted(found, seeds[0])]
        wrong += [f"dropout, at {at}: {far:.2e} from the middle of {SEEDS} seeds"] if far > spread else []
    return {"tried": 2 * count, "spread_of_seeds": spread, "farthest": farthest, "wrong": wrong}


def miscounted(found: Trained, calm: Trained) -> list[str]:
    """Steps, rows and tokens must be those of the calm training, with one event, and a lower budget."""
    said = [] if len(found.state.oom) == 1 and found.state.token_budget < BUDGET else [f"events {found.state.oom}"]
    said += [name for name in COUNTED if getattr(found.state, name) != getattr(calm.state, name)]
    return said + ([] if found.losses.keys() == calm.losses.keys() else ["other steps in the log"])


def apart(found: Trained, calm: Trained) -> list[str]:
    """Losses and adapter must be those of the calm training, up to float32's rounding."""
    said = [] if np.allclose(found.curve, calm.curve, rtol=1e-4) else ["losses"]
    said += ["best"] if found.state.best_step != calm.state.best_step else []
    return said + ([] if distance(flat(found), flat(calm)) <= 1e-4 * np.linalg.norm(flat(calm)) else ["adapter"])


def flat(found: Trained) -> NDArray[np.float64]:
    return np.concatenate([found.adapter[name].ravel() for name in sorted(found.adapter)]).astype(np.float64)


def distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(a - b))
