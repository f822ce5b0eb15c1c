"""A whole run that takes milliseconds: the real loop, run folder and checkpoints around an engine of a few numbers.

Its every update depends on parameters, momentum, drawn numbers, learning rate and the rows of the step, so whatever a
resume forgets shows in the result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from truetune.config import Amount, Cadence
from truetune.data.example import Example
from truetune.data.steps import Steps
from truetune.engines import base
from truetune.engines.base import EngineSpec, LossSum, Plan, Snapshot, StepResult, Usage
from truetune.listener import Listener, unheard
from truetune.runs import durable
from truetune.runs.checkpoints import Checkpoint, Checkpoints
from truetune.runs.metrics import Metrics
from truetune.runs.run import Run
from truetune.train.carry import take_up
from truetune.train.loop import Loop
from truetune.train.plan import Rules, course
from truetune.train.state import State

STEPS, ROWS, BATCH = 6, 14, 4
RULES = Rules(evaluate=Cadence(2, "steps"), save=Cadence(1, "steps"), keep=2, best=True)
KEPT = ("adapter_model.safetensors", "optimizer.safetensors", "rng.safetensors", "base.bin")
BASE = b"never changes" * 100


class Small:
    """The verbs of a TrainEngine that the loop calls."""

    spec = EngineSpec(Path())
    between = staticmethod(base.go_on)

    def __init__(self, token_budget: int = 64) -> None:
        self.token_budget = token_budget
        self.weights, self.momentum = np.ones(24), np.zeros(24)
        self.draws = np.random.Generator(np.random.PCG64(5))

    def prepare(self, examples: Sequence[Example]) -> Plan:
        return base.plan(examples, self.token_budget)

    def step(self, plan: Plan, lr: float) -> StepResult:
        gradient = self.weights - self.wanted(plan) + 0.1 * self.draws.standard_normal(24)
        self.momentum = 0.9 * self.momentum + gradient
        self.weights = self.weights - lr * self.momentum
        supervised = sum(example.supervised for example in plan.examples)
        norm = float(np.sqrt((gradient**2).sum()))
        return StepResult(float((gradient**2).mean()), norm, plan.tokens, supervised)

    def loss(self, plan: Plan) -> LossSum:
        error = float(((self.weights - self.wanted(plan)) ** 2).sum())
        return LossSum(error * plan.denominator, plan.denominator, plan.tokens, 1)

    def wanted(self, plan: Plan) -> NDArray[np.float64]:
        parts = ([plan.examples[place] for place in part] for part in plan.micro_batches)
        found: NDArray[np.float64] = sum(map(self._loss, parts)) / len(plan.examples)  # type: ignore[operator]
        return found

    def _loss(self, examples: Sequence[Example]) -> NDArray[np.float64]:
        """A micro-batch's part."""
        return np.asarray(sum(np.cos(np.arange(24) * example.row) for example in examples))

    def changed(self) -> tuple[int, int]:
        return int((self.weights != 1).any()), 1

    def usage(self) -> Usage:
        return Usage(0, 0, 0)

    def save(self, folder: Path) -> None:
        self.snapshot().write(folder)

    def snapshot(self) -> Snapshot:
        counter = {name: halves(self.counter[name]) for name in ("state", "inc")}
        tensors = [{"weights": self.weights}, {"momentum": self.momentum}, counter]
        data = [*map(save, tensors), BASE]
        return Snapshot(tuple(partial(put, name, each) for name, each in zip(KEPT, data, strict=True)))

    def restore(self, folder: Path) -> None:
        self.weights = load_file(folder / KEPT[0])["weights"]
        self.momentum = load_file(folder / KEPT[1])["momentum"]
        kept = {name: int.from_bytes(value.tobytes(), "little") for name, value in load_file(folder / KEPT[2]).items()}
        self.draws.bit_generator.state = self.draws.bit_generator.state | {"state": kept}

    @property
    def counter(self) -> dict[str, int]:
        """The two numbers of 128 bits in which the generator stands."""
        return dict(self.draws.bit_generator.state["state"])


def put(name: str, data: bytes, folder: Path) -> None:
    durable.create(folder / name, data)


def halves(number: int) -> NDArray[np.uint64]:
    return np.frombuffer(number.to_bytes(16, "little"), np.uint64)


def examples(count: int) -> list[Example]:
    ids, weights = np.arange(4, dtype=np.int32), np.ones(4, np.float32)
    return [Example(ids, weights, row) for row in range(count)]


def build(run: Run, engine: Small, state: State, listener: Listener, rules: Rules | None = None) -> Loop:
    rows = examples(ROWS + 3)
    path = course(
        Steps(ROWS, BATCH, 3),
        epochs=100,
        max_steps=STEPS,
        learning_rate=0.6,
        scheduler="cosine",
        warmup=Amount(0, percent=True),
    )
    return Loop(run, engine, path, rows[:ROWS], rows[ROWS:], rules or RULES, state, listener)


@dataclass(frozen=True)
class Result:
    """What a disturbed run must share with the straight one, to the last bit."""

    losses: dict[tuple[str, int], float]
    files: dict[str, str]
    counts: dict[str, Any]
    best: dict[str, Any] | None


def start(folder: Path, listener: Listener = unheard) -> Run:
    """A new run, trained to its end. `created` is heard when its folder stands."""
    run = Run.create(folder, train_yml=b"version: 1\n", resolved={"schema": 1}, env={"schema": 1})
    listener("created", {})
    with run.lock():
        build(run, Small(), State(token_budget=64), listener).fit()
    return run


def found(run: Run, warn: Callable[[str], None]) -> Checkpoint | None:
    """Where a resume begins."""
    with run.lock():
        return Checkpoints(run).newest_good(warn)


def go_on(run: Run, warn: Callable[[str], None], listener: Listener = unheard) -> Result:
    """Resume as `ft train --resume` does, to the end."""
    checkpoint = found(run, warn)
    state = State(token_budget=64)
    if checkpoint:
        state = State.from_json(Checkpoints(run).load_state(checkpoint))
    engine = Small()
    with run.lock():
        if checkpoint:
            engine.restore(checkpoint.folder)
        take_up(run, state, warn)
        build(run, engine, state, listener).fit()
    return result(run)


def result(run: Run) -> Result:
    rows = Metrics(run.folder / "metrics.jsonl").read()
    kept = Checkpoints(run)
    last = kept.find("last")
    counts = kept.load_state(last)
    files = {name: hashlib.sha256((last.folder / name).read_bytes()).hexdigest() for name in KEPT}
    return Result(
        {(row["kind"], row["step"]): row["loss"] for row in rows if row["kind"] in ("train", "eval")},
        files,
        {name: value for name, value in counts.items() if name not in ("seconds", "resumes")},
        kept.best(),
    )
