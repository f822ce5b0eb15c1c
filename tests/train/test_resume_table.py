"""Every engine × method × objective: a run that is stopped and goes on in a fresh engine is the straight one to the
last bit: parameters, optimizer, generators, rows, best, early stopping, counts and log."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

pytest.importorskip("torch")

from truetune import engines
from truetune.config import Amount, Cadence
from truetune.config.schema import Method as MethodKeys
from truetune.data import objectives
from truetune.data.example import Example
from truetune.data.steps import Steps
from truetune.engines import optimizers
from truetune.engines.base import EngineSpec, Method, Objective, Optimizer
from truetune.engines.prompts import HEADED, NEEDS_PEFT
from truetune.engines.torch import tiny
from truetune.runs import alike
from truetune.runs.checkpoints import Checkpoints
from truetune.runs.metrics import Metrics
from truetune.runs.run import Run
from truetune.testing import contract
from truetune.train.carry import take_up
from truetune.train.loop import Loop
from truetune.train.plan import Rules, course
from truetune.train.state import State

METHODS = [name for name in get_args(MethodKeys.model_fields["type"].annotation) if name != "auto"]
CLASSES = ("bad", "fair", "good")
ROWS, HELD_OUT, STEPS, BUDGET = 10, 4, 6, 40
KINDS = {"dpo": contract.pairs, "kto": contract.rated}


@dataclass(frozen=True)
class Case:
    engine: str
    method: str
    objective: str
    options: dict[str, Any] = field(default_factory=dict)
    """Of the spec, the method's under `method`."""
    architecture: str = "llama"

    def __str__(self) -> str:
        named = (f"{key}={value}" for key, value in self.options.items())
        return "-".join((self.engine, self.method, self.objective, *named, self.architecture))


def product(engine: str) -> Iterator[Case]:
    """What is not refused before a run is made."""
    for method in METHODS:
        for objective in objectives.TABLE:
            if not (method in NEEDS_PEFT and objective in HEADED):
                yield Case(engine, method, objective)


EVERY = list(product("torch"))
BESIDE = [
    Case("torch", "lora", "sft", {"neftune_alpha": 5.0}),
    Case("torch", "lora", "sft", {"ema": 0.7}),
    Case("torch", "full", "sft", {"ema": 0.7, "neftune_alpha": 5.0}),
    Case("torch", "full", "sft", {"method": {"frozen_layers": 1}}),
    Case("torch", "qlora", "sft", {"method": {"bits": 8}}),
    Case("torch", "qlora", "sft", {"method": {"init": "loftq"}}),
    Case("torch", "lora", "dpo", {"method": {"init": "pissa"}}),
    Case("torch", "lora", "kto", {"method": {"init": "olora", "lora_plus": 4.0}}),
    Case("torch", "lora", "sft", {"method": {"modules_to_save": ("embed_tokens",)}}),
    Case("torch", "lora", "sft", {"new_tokens": (320, 321)}),
    Case("torch", "lora", "sft", {"gradient_checkpointing": True}),
    Case("torch", "lora", "sft", {}, "gptj"),
    Case("torch", "lora", "classification", {}, "bert"),
    *(Case("torch", "full", "sft", {"optimizer": Optimizer(kind)}) for kind in optimizers.KEPT if kind != "adamw"),
]


def method(case: Case) -> Method:
    kept = 0.0 if case.method in ("full", *NEEDS_PEFT) else 0.1
    own = {"bits": 4 if case.method == "qlora" else 0, "dropout": kept, "virtual_tokens": 3}
    return Method(**{"type": case.method, "r": 4, "alpha": 8.0} | own | case.options.get("method", {}))


def spec(case: Case, model: Path) -> EngineSpec:
    learned = Objective(case.objective, classes=CLASSES if case.objective == "classification" else ())
    more = {key: value for key, value in case.options.items() if key != "method"}
    return replace(EngineSpec(model, method(case), objective=learned, token_budget=BUDGET, seed=7), **more)


def examples(objective: str, count: int, seed: int) -> list[Example]:
    kind = objectives.of(objective).rows
    if kind in KINDS:
        return KINDS[kind](count, seed=seed, longest=24)
    plain = contract.examples(count, seed=seed, longest=24)
    if kind != "classification":
        return plain
    return [replace(row, weights=np.zeros_like(row.weights), label=(row.row % len(CLASSES),)) for row in plain]


def build(case: Case, model: Path, run: Run, state: State, heard: Any) -> Loop:
    """Four rows a step, an evaluation after every second, and a patience that is never over."""
    path = course(
        Steps(ROWS, 4, 3),
        epochs=100,
        max_steps=STEPS,
        learning_rate=5e-3,
        scheduler="cosine",
        warmup=Amount(0, percent=True),
    )
    rules = Rules(evaluate=Cadence(2, "steps"), save=Cadence(3, "steps"), keep=2, best=True, patience=9)
    rows = [examples(case.objective, count, seed) for count, seed in ((ROWS, 1), (HELD_OUT, 2))]
    compares = objectives.of(case.objective).reference
    engine = engines.open_engine(case.engine, spec(case, model))
    return Loop(run, engine, path, *rows, rules, state, heard, compares=compares)


def trained(case: Case, model: Path, folder: Path, stop: int = 0) -> Run:
    """To the end; `stop` is after which step it is stopped and goes on."""
    run = Run.create(folder, train_yml=b"", resolved={}, env={}, listed=False)

    def heard(kind: str, figures: dict[str, Any]) -> None:
        if kind == "train" and figures["step"] == stop:
            run.request_stop()

    reason = build(case, model, run, State(token_budget=BUDGET), heard).fit()
    assert reason == ("the stop file" if stop else "done")
    if not stop:
        return run
    run.clear_stop()
    kept = Checkpoints(run)
    checkpoint = kept.newest_good(pytest.fail)
    assert checkpoint is not None and checkpoint.step == stop
    state = State.from_json(kept.load_state(checkpoint))
    again = build(case, model, run, state, lambda kind, figures: None)
    again.engine.restore(checkpoint.folder)
    take_up(run, state, pytest.fail)
    assert again.fit() == "done"
    return run


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, Path] = {}

    def of(architecture: str) -> Path:
        if architecture not in made:
            folder = tmp_path_factory.mktemp("models") / architecture
            made[architecture] = tiny.make(folder, architecture)
        return made[architecture]

    return of


def proven(case: Case, model: Path, tmp_path: Path) -> None:
    straight, other = trained(case, model, tmp_path / "straight"), trained(case, model, tmp_path / "other", stop=3)
    assert {part: name for part, name in alike.compare(straight, other).items() if name} == {}
    assert Checkpoints(straight).best() == Checkpoints(other).best()
    losses = [row["loss"] for row in Metrics(other.folder / "metrics.jsonl").read("train")]
    assert len({*losses}) == STEPS
    state = State.from_json(Checkpoints(other).load_state(Checkpoints(other).find("last")))
    assert state.supervised > 0 and state.best_step is not None


def test_the_table_is_complete() -> None:
    """Every method and every objective, but for heads that PEFT's kinds do not carry."""
    assert {case.method for case in EVERY} == {*METHODS} and {case.objective for case in EVERY} == {*objectives.TABLE}
    assert len(EVERY) == len(METHODS) * len(objectives.TABLE) - len(NEEDS_PEFT) * len(HEADED)


CROSS = [case for case in EVERY if case.method == "lora" or case.objective == "sft"]
"""Every method once, and every objective."""


@pytest.mark.parametrize("case", CROSS, ids=str)
def test_a_resume_is_exact(case: Case, models: Any, tmp_path: Path) -> None:
    proven(case, models(case.architecture), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in EVERY if case not in CROSS] + BESIDE, ids=str)
def test_every_resume_on_torch_is_exact(case: Case, models: Any, tmp_path: Path) -> None:
    proven(case, models(case.architecture), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("case", [*product("mlx")], ids=str)
def test_every_resume_on_mlx_is_exact(case: Case, models: Any, tmp_path: Path) -> None:
    pytest.importorskip("mlx_lm", reason="MLX is not installed")
    lacking = engines.module("mlx").lacks(models("llama"), case.method, case.objective)
    if lacking:
        pytest.skip(f"MLX lacks {lacking}, and torch computes")
    proven(case, models(case.architecture), tmp_path)
