"""What can be learned, and from which rows. How each is computed is the engines' business."""

from __future__ import annotations

from dataclasses import dataclass


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

    @property
    def compares(self) -> bool:
        """Whether better and worse answers are told apart."""
        return self.rows in ("dpo", "kto")


TABLE = {
    objective.name: objective
    for objective in (
        Objective("sft", "sft", unit="tokens"),
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


def of(name: str) -> Objective:
    return TABLE[name]


def fitting(rows: str) -> list[str]:
    """The objectives that take rows of a kind, the default first."""
    return sorted((name for name, objective in TABLE.items() if objective.rows == rows), key=lambda name: name != rows)
