"""How far a model holds better and worse answers apart, from a line of a run's metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from truetune.report.words import minus


def margin(row: Mapping[str, Any]) -> float | None:
    """The mean reward of better answers less that of worse ones. Where answers are rated one by one, a step may have
    only one kind."""
    if row.get("reward_margin") is not None:
        return float(row["reward_margin"])
    better, worse = row.get("reward_chosen"), row.get("reward_rejected")
    return None if better is None or worse is None else float(better - worse)


def accuracy(row: Mapping[str, Any]) -> float | None:
    """The share of pairs, or of rated answers, that are on their right side; of texts whose classes are found."""
    found = row.get("reward_accuracy", row.get("accuracy"))
    return None if found is None else float(found)


def said(row: Mapping[str, Any]) -> Iterator[str]:
    """`margin 1.234`, `accuracy 88%`; nothing for objectives that compare no answers."""
    found, right = margin(row), accuracy(row)
    if found is not None:
        yield f"margin {minus(f'{found:.3f}')}"
    if right is not None:
        yield f"accuracy {right:.0%}"
