"""Heads that give scores instead of words, as transformers' classes for sequence classification have them: what they
are called, what of a base they replace, and where a fresh one starts, the same on every engine."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from truetune.engines.base import Objective

LAST = ("score.", "classifier.")
"""Where the numbers of the classes begin: a base that has other classes gives its own away."""
OTHERS = re.compile(
    r"^(lm_head|cls|decoder|embed_out|head|classifier|score|qa_outputs|\w*predictions|vocab_\w+|generator_lm_head)\b"
    r"|(^|\.)pooler\.|position_ids$"
)
"""Tensors of heads for other tasks, which a base may bring and this one does not read."""


def names(objective: Objective) -> tuple[str, ...]:
    """What the scores are of: the classes, or one thing."""
    return objective.classes or ("reward",)


def settings(objective: Objective) -> dict[str, Any]:
    """The classes where others look for them in config.json; its keys are texts there."""
    numbered = dict(enumerate(names(objective)))
    found: dict[str, Any] = {"id2label": numbered, "label2id": {name: number for number, name in numbered.items()}}
    if objective.classes:
        found["problem_type"] = f"{'multi' if objective.several else 'single'}_label_classification"
    return found


def known(objective: Objective, labels: dict[int, str]) -> bool:
    """Whether a base whose `labels` these are has a head for just these classes."""
    wanted = names(objective)
    same = not objective.classes or [labels.get(number) for number in range(len(wanted))] == list(wanted)
    return same and len(labels) == len(wanted)


def padding(pad: int | None, end: int | list[int] | None) -> int | None:
    """The token of the padding, which transformers' own pooling wants; where there is none, the one that ends texts."""
    if pad is not None:
        return pad
    return end[0] if isinstance(end, list) else end


def start(name: str, shape: tuple[int, ...], std: float, seed: int) -> NDArray[np.float32]:
    """Matrices from a normal distribution, biases 0, the scale of a norm 1. Drawn from the seed and the name, so that
    it is the same on every engine and device."""
    if len(shape) < 2:
        return np.full(shape, 0.0 if name.endswith("bias") else 1.0, np.float32)
    drawn = np.random.default_rng([seed, *name.encode()]).standard_normal(shape, dtype=np.float32)
    return np.asarray(drawn * np.float32(std))
