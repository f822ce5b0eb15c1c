"""How well texts were sorted into classes: what each class was taken for, precision, recall and F1.

A row is counted for each class: it holds and was found (tp), was found and does not hold (fp), holds and was missed
(fn). Of these counts everything follows, for any set of rows:

precision   tp / (tp + fp)          recall   tp / (tp + fn)          F1   2 tp / (2 tp + fp + fn)
macro F1    mean of F1 over the classes that stand in the rows or were found
micro F1    F1 of the counts of all classes together; with one class for each row this is the accuracy
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from truetune.evaluate.metrics import Metric, Sums, ratio

Holds = NDArray[np.bool_]
"""[rows, classes]"""


def f1(tp: Sums, fp: Sums, fn: Sums) -> Sums:
    """NaN for a class that neither holds nor was found."""
    whole = 2 * tp + fp + fn
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(whole > 0, 2 * tp / whole, np.nan)


def macro(sums: Sums) -> NDArray[np.float64]:
    """(tp of each class, fp, fn) to the mean of F1; NaN where there is no class at all."""
    each = f1(*np.split(sums, 3, axis=-1))
    known = np.isfinite(each)
    number = known.sum(-1)
    return np.where(number > 0, np.where(known, each, 0.0).sum(-1) / np.maximum(number, 1), np.nan)


def micro(sums: Sums) -> NDArray[np.float64]:
    return f1(*(part.sum(-1) for part in np.split(sums, 3, axis=-1)))


METRICS = {
    "accuracy": Metric("accuracy", ratio, "higher", share=True),
    "macro_f1": Metric("macro F1", macro, "higher"),
    "micro_f1": Metric("micro F1", micro, "higher"),
    "loss": Metric("loss", ratio, "lower"),
}


def sums(true: Holds, found: Holds, losses: NDArray[np.float64]) -> dict[str, Sums]:
    """Of every metric, per row."""
    ones = np.ones(len(true))
    counts = np.concatenate([true & found, found & ~true, true & ~found], axis=1).astype(np.float64)
    right = (true == found).all(1).astype(np.float64)
    return {
        "accuracy": np.column_stack([right, ones]),
        "macro_f1": counts,
        "micro_f1": counts,
        "loss": np.column_stack([losses, ones]),
    }


def by_class(names: Sequence[str], true: Holds, found: Holds) -> list[dict[str, Any]]:
    """{name, rows, found, precision, recall, f1} of each; a share of nothing is null."""
    told = []
    for number, name in enumerate(names):
        holds, taken = true[:, number], found[:, number]
        tp, fp, fn = float((holds & taken).sum()), float((taken & ~holds).sum()), float((holds & ~taken).sum())
        figures = {"precision": share(tp, tp + fp), "recall": share(tp, tp + fn), "f1": share(2 * tp, 2 * tp + fp + fn)}
        told.append({"name": name, "rows": int(holds.sum()), "found": int(taken.sum()), **figures})
    return told


def share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def matrix(true: Holds, found: Holds) -> list[list[int]]:
    """How many rows of each class (down) were taken for which (across); for rows with one class each."""
    return (true.T.astype(np.int64) @ found.astype(np.int64)).tolist()  # type: ignore[no-any-return]
