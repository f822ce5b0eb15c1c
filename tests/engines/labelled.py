"""Labelled rows for the tests of classification: what class a text has stands in two of its tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from truetune.data.example import Example
from truetune.engines.base import EngineSpec, Method, Objective

LORA = Method(type="lora", r=4, alpha=8, dropout=0.0)
CLASSES = ("bad", "fair", "good")
ONE = Objective("classification", classes=CLASSES)
SEVERAL = Objective("classification", classes=CLASSES, several=True)
FIRST = 10
"""The token that tells of class 0; those of the others follow."""


def rows(count: int, *, seed: int = 0, pair: bool = False, several: bool = False) -> list[Example]:
    """No special token is in them: ids begin at 5."""
    rng = np.random.default_rng(seed)
    made = []
    for row in range(count):
        size = int(rng.integers(5, 24))
        label = tuple(n for n in range(3) if rng.random() < 0.5) if several else (int(rng.integers(3)),)
        ids = rng.integers(20, 320, size).astype(np.int32)
        ids[1 : 1 + len(label)] = [FIRST + number for number in label]
        made.append(Example(ids, np.zeros(size, np.float32), row, second=size // 2 if pair else 0, label=label))
    return made


def spec(folder: Path, objective: Objective = ONE, method: Method = LORA, **more: object) -> EngineSpec:
    return EngineSpec(model=folder, method=method, objective=objective, **more)  # type: ignore[arg-type]


def pairs(count: int = 48) -> list[Example]:
    """The better answer has a token that the worse one lacks."""
    made = []
    for one, other in zip(rows(count, seed=5), rows(count, seed=6), strict=True):
        ids = np.concatenate((one.ids, other.ids))
        ids[1], ids[one.tokens + 1] = 11, 12
        weights = np.ones(len(ids), np.float32)
        weights[[0, one.tokens]] = 0
        made.append(Example(ids, weights, one.row, second=one.tokens))
    return made
