"""What can be learned, and from which rows. How each is computed is the engines' business."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from truetune import plugins


@dataclass(frozen=True)
class Objective:
    """`rows` is the kind of rows that it takes, by the name of the objective that such rows have by default.

    `unit` is what a step's loss is divided by: the sum of the weights of its `tokens`, or its `rows`.
    """

    name: str
    rows: str
    unit: str = "rows"
    reference: bool = False
    """Whether the model before training is compared with."""
    scores: bool = False
    """Whether the model gives scores instead of words."""
    beta: float = 0.1
    """What `preference.beta: auto` is."""
    reads: tuple[str, ...] = ()
    """Of another package's: the keys of `preference` that it reads."""
    torch: str = ""
    """Of another package's: `module:class` of the loss in the torch engine."""

    @property
    def compares(self) -> bool:
        """Whether better and worse answers are told apart."""
        return self.rows in ("dpo", "kto")


TABLE = {
    objective.name: objective
    for objective in (
        Objective("sft", "sft", unit="tokens"),
        Objective("summarisation", "sft", unit="tokens"),
        Objective("pretrain", "pretrain", unit="tokens"),
        Objective("dpo", "dpo", reference=True),
        Objective("orpo", "dpo"),
        Objective("simpo", "dpo", beta=2.0),
        Objective("cpo", "dpo"),
        Objective("kto", "kto", reference=True),
        Objective("reward", "dpo", scores=True),
        Objective("classification", "classification", scores=True),
    )
}


COUNTED = {
    "dpo": ("answer tokens", "pairs"),
    "kto": ("answer tokens", "rated answers"),
    "classification": ("labels", "texts"),
}
"""What is counted of rows of a kind, in words: what the loss sees of them, and what goes into it at once."""


def counted(kind: str) -> tuple[str, str]:
    """What receipts call `supervised` and `examples`, for rows of a kind."""
    return COUNTED.get(kind, ("supervised tokens", "examples"))


def divisor(kind: str) -> tuple[str, str]:
    """Which of the two the loss of a step is a mean over, and its words: `("examples", "pairs")`."""
    at = int(kind in COUNTED and of(kind).compares)
    return ("supervised", "examples")[at], counted(kind)[at]


ROWS = ("sft", "pretrain", "dpo", "kto")
"""Kinds of rows that another package's objective may take."""


def of(name: str) -> Objective:
    """Ours, or one that a package brings. Raises InputError `plugin.missing`, `plugin.unusable`."""
    return TABLE[name] if name in TABLE else brought(name)


@cache
def brought(name: str) -> Objective:
    """The objective of an entry point of the group `truetune.objectives`."""
    found = plugins.load(plugins.OBJECTIVES, name)
    if not isinstance(found, Objective):
        raise plugins.unusable(plugins.OBJECTIVES, name, f"it is no Objective but {type(found).__name__}")
    if found.name != name or ":" not in found.torch:
        raise plugins.unusable(plugins.OBJECTIVES, name, "it must have this name, and `torch` as module:class")
    if found.rows not in ROWS or found.unit not in ("tokens", "rows") or found.scores:
        reason = f"its rows must be one of {', '.join(ROWS)}, its unit tokens or rows, and it gives no scores"
        raise plugins.unusable(plugins.OBJECTIVES, name, reason)
    return found


def fitting(rows: str) -> list[str]:
    """The objectives that take rows of a kind, the default first."""
    return sorted((name for name, objective in TABLE.items() if objective.rows == rows), key=lambda name: name != rows)
