"""Two runs compared bit by bit: the first thing that differs is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from truetune.errors import InputError
from truetune.runs.alike import compare
from truetune.runs.checkpoints import Checkpoints
from truetune.runs.metrics import Metrics
from truetune.runs.run import Run

STATE = {"step": 2, "examples": 8, "tokens": 40, "supervised": 20, "best_loss": 1.5, "seconds": 0.5, "resumes": []}
FILES = {
    "adapter_model.safetensors": {"a": np.arange(4.0), "b": np.zeros(3)},
    "optimizer.safetensors": {"exp_avg.a": np.ones(4)},
    "rng.safetensors": {"torch": np.arange(8, dtype=np.uint8)},
}


@pytest.fixture
def trained(make: Callable[..., Run]) -> Callable[..., Run]:
    """A run with one checkpoint; a change is given as {file: tensors}, the state's and the log's as keywords."""

    def build(name: str, files: dict[str, Any] | None = None, loss: float = 1.0, **state: Any) -> Run:
        run = make(name)

        def fill(folder: Path) -> None:
            for file, tensors in (FILES | (files or {})).items():
                save_file(tensors, folder / file)

        for step in (1, 2):
            Metrics(run.folder / "metrics.jsonl").append("train", step, loss=loss / step, tokens_per_second=np.pi)
        Checkpoints(run).save(2, fill, STATE | state)
        return run

    return build


def test_the_same_training(trained: Callable[..., Run]) -> None:
    found = compare(trained("a"), trained("b", seconds=9.9, resumes=[1]))
    assert set(found) == {"parameters", "optimizer", "rng", "data", "state", "log"}
    assert set(found.values()) == {None}


DIFFERENT: dict[str, tuple[str, str, dict[str, Any]]] = {
    "a number": ("parameters", "b", {"files": {"adapter_model.safetensors": {"a": np.arange(4.0), "b": np.ones(3)}}}),
    "minus zero": (
        "parameters",
        "b",
        {"files": {"adapter_model.safetensors": {"a": np.arange(4.0), "b": -np.zeros(3)}}},
    ),
    "a file more": ("parameters", "mean.safetensors", {"files": {"mean.safetensors": {"c": np.ones(1)}}}),
    "a moment": ("optimizer", "exp_avg.a", {"files": {"optimizer.safetensors": {"exp_avg.a": np.zeros(4)}}}),
    "another type": ("optimizer", "exp_avg.a", {"files": {"optimizer.safetensors": {"exp_avg.a": np.ones(4, "f4")}}}),
    "a stream": ("rng", "torch", {"files": {"rng.safetensors": {"torch": np.zeros(8, np.uint8)}}}),
    "the position": ("data", "examples", {"examples": 9}),
    "the best": ("state", "best_loss", {"best_loss": 1.25}),
    "the log": ("log", "train 1", {"loss": 1.0 + 2**-52}),
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_what_differs_is_named(case: str, trained: Callable[..., Run]) -> None:
    part, name, change = DIFFERENT[case]
    found = compare(trained("a"), trained("b", **change))
    assert {key: value for key, value in found.items() if value} == {part: name}


def test_a_run_without_a_checkpoint(trained: Callable[..., Run], make: Callable[..., Run]) -> None:
    with pytest.raises(InputError):
        compare(trained("a"), make("b"))
