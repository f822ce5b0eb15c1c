"""What broke an export whose program computes otherwise: the base that was merged into, a tensor, or the program."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from truetune.export.bounds import TOLERANCE
from truetune.export.runtime import Part
from truetune.export.stages import BASE, RUNTIME, WEIGHTS, Distance, Stage, State

CLOSE = 1e-4
"""Largest difference of a tensor's numbers, as a share of its largest one, that another order of sums explains."""


def culprit(failed: Stage, base: Distance | None, parts: Iterator[Part] | None) -> list[Stage]:
    """The stages merge base, weights and runtime, after `runtime` has failed: the one that broke it has failed, those
    before it are in order, those behind it are not checked.

    base   how far the export lies from the base without the adapter; None where there is no adapter, or it is not known
    parts  the export's tensors beside those that should stand there; None where they cannot be told
    """
    if base is not None and base.largest <= failed.figures.get("tolerance", TOLERANCE):
        return blamed(BASE, "it computes what the base does: the adapter is not in it", failed)
    if parts is None:
        return blamed(RUNTIME, failed.detail, failed, seen=False)
    for part in parts:
        if wrong := told(part):
            stage = WEIGHTS if part.adapted or "transposed" in wrong or "order" in wrong else BASE
            what = "" if stage == WEIGHTS else ": it was folded into another base"
            return blamed(stage, f"{part.name} {wrong}{what}", failed)
    return blamed(RUNTIME, f"every tensor is as it should be, but {failed.detail}", failed)


def blamed(name: str, detail: str, failed: Stage, *, seen: bool = True) -> list[Stage]:
    """The three stages with this one failed; `seen`: whether those before it were looked at."""
    order = (BASE, WEIGHTS, RUNTIME)
    before: State = "ok" if seen else "not checked"
    found = []
    for one in order:
        if one == name:
            found.append(Stage(one, "failed", detail, failed.figures))
        elif order.index(one) < order.index(name):
            found.append(Stage(one, before, "as it should be" if seen else "its tensors cannot be read back"))
        else:
            found.append(Stage(one, "not checked", f"{name} is broken"))
    return found


def told(part: Part) -> str:
    """What is wrong with a tensor; empty where nothing is."""
    wanted, found = part.wanted, part.found
    if wanted.shape == found.shape and close(wanted, found):
        return ""
    if wanted.ndim == 2 and wanted.T.shape == found.shape and close(wanted.T, found):
        return "is transposed"
    if wanted.shape != found.shape:
        return f"is {found.shape}, not {wanted.shape}"
    if not found.any():
        return "is empty"
    if wanted.ndim and close(ordered(wanted), ordered(found)):
        return "has its rows in another order"
    return "holds other numbers"


def ordered(value: NDArray[np.generic]) -> NDArray[np.generic]:
    """Its rows in the order of their numbers."""
    rows = value.reshape(len(value), -1)
    return rows[np.lexsort(rows.T[::-1])]


def close(one: NDArray[np.generic], other: NDArray[np.generic]) -> bool:
    a, b = one.astype(np.float32), other.astype(np.float32)
    largest = float(np.abs(a).max(initial=0))
    return bool(np.abs(a - b).max(initial=0) <= CLOSE * max(largest, 1e-12))
