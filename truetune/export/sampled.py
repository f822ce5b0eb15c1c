"""Is a folded model the sum that it should be? Tensor by tensor, for models that no memory here holds.

What the adapter does not change must have the base's bytes. Of what it changes, and of what was unpacked, some rows are
computed again in float64, by another formula than the fold's; a row that differs fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from truetune.export.basis import DTYPES, Weight
from truetune.export.changes import Change, LowRank, Rows, Scaled, Whole
from truetune.export.streamed import Fold
from truetune.models import tensorfile
from truetune.models.tensorfile import Place

SAMPLED = 16
"""Rows of each tensor that is computed again."""
ROUNDING = {"F64": 1e-5, "F32": 1e-5, "F16": 2.0**-10, "BF16": 2.0**-7}
"""What rounding to a number type and another order of sums explain, as a share of a row's largest number."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Sampled:
    """`largest` is the worst row's difference, as a share of what rounding explains: above 1 fails. `failed` names the
    first tensor that is not what it should be, with why."""

    tensors: int
    changed: int
    rows: int
    largest: float
    failed: str = ""
    rest: str = "the base's to the byte"
    """What the tensors are of which no row was computed again."""

    @property
    def told(self) -> str:
        again = f"{self.rows:,} rows computed again from the base's files"
        return f"{self.tensors} tensors, of which the adapter changes {self.changed}: {again}, all others {self.rest}"

    def to_json(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "rest"}


def check(fold: Fold, folder: Path) -> Sampled:
    """Every tensor of the folded model in `folder`. Raises InputError, OSError, ValueError for a damaged file."""
    base, made, changed = fold.weights, every(folder), len(fold.changed)
    if base.keys() != made.keys():
        other = sorted(base.keys() ^ made.keys())[0]
        return Sampled(len(made), changed, 0, 0.0, f"{other} is in one of the two models only")
    largest, rows = 0.0, 0
    for name in sorted(base):
        weight, change = base[name], fold.changed.get(name)
        if change is None and weight.whole is None:
            if not same(weight.place, made[name]):
                return Sampled(len(made), changed, rows, largest, f"{name} is not the base's")
            continue
        found = apart(weight, change, made[name])
        largest, rows = max(largest, found), rows + min(SAMPLED, weight.rows)
        if not found <= 1:
            return Sampled(len(made), changed, rows, largest, f"{name} is not what base and adapter make")
    return Sampled(len(made), changed, rows, largest)


def every(folder: Path) -> dict[str, Place]:
    paths = sorted(folder.glob("*.safetensors"))
    return {place.tensor.name: place for path in paths for place in tensorfile.places(path)}


def same(one: Place, other: Place) -> bool:
    if one.tensor != other.tensor:
        return False
    return all(a == b for a, b in zip(tensorfile.copied(one), tensorfile.copied(other), strict=True))


def apart(base: Weight, change: Change | None, made: Place) -> float:
    """The largest difference of some rows, as a share of what rounding explains."""
    if base.tensor.shape != made.tensor.shape or made.tensor.dtype not in DTYPES:
        return float("inf")
    found = Weight(made, made.tensor)
    differences = (
        beside(expected(base, change, row), row_of(found, row), ROUNDING[made.tensor.dtype]) for row in chosen(base)
    )
    return max(differences, default=0.0)


def beside(wanted: Numbers, found: Numbers, rounding: float) -> float:
    """How far a row lies from the one that it should be, as a share of what rounding explains."""
    allowed = rounding * max(float(np.abs(wanted).max()), 1e-30)
    return float(np.abs(wanted - found).max()) / allowed


def chosen(weight: Weight) -> Iterator[int]:
    """Rows from all over a tensor, the same every time: the first, the last, and drawn ones."""
    draw = np.random.default_rng([len(weight.tensor.name), weight.rows])
    found = {0, weight.rows - 1, *draw.integers(0, weight.rows, SAMPLED).tolist()}
    yield from sorted(found)[:SAMPLED]


def row_of(weight: Weight, row: int) -> Numbers:
    found: Numbers = weight.read(row, row + 1)[0].to(torch.float64).numpy()
    return found


def expected(base: Weight, change: Change | None, row: int) -> Numbers:
    """A row of the folded weight in float64, as it is stored."""
    if isinstance(change, LowRank):
        return summed(base, change, row)
    if isinstance(change, Whole):
        return numbers(change.tensor[row])
    if isinstance(change, Rows) and row in change.ids:
        return numbers(change.rows[change.ids.index(row)])
    values = row_of(base, row)
    if isinstance(change, Scaled):
        return values * numbers(change.factors.expand(base.tensor.shape)[row])
    return values


def numbers(tensor: torch.Tensor) -> Numbers:
    found: Numbers = tensor.to(torch.float64).numpy()
    return found


def summed(base: Weight, change: LowRank, row: int) -> Numbers:
    A, B = numbers(change.A), numbers(change.B)
    product = A[:, row] @ B.T if change.transposed else B[row] @ A
    values: Numbers = row_of(base, row) + change.scale * product
    if change.magnitude is None:
        return values
    magnitude = numbers(change.magnitude)
    if not change.transposed:
        scaled: Numbers = magnitude[row] * values / np.linalg.norm(values)
        return scaled
    return magnitude * values / lengths(base, change.scale, A, B)


def lengths(base: Weight, s: float, A: Numbers, B: Numbers) -> Numbers:
    """‖W + s B A‖ of each output, of a weight [I, O]: ‖w‖² + 2 s b·(A w) + s² b A Aᵀ bᵀ by output."""
    W = numbers(base.read(0, base.rows))
    crossed = ((A @ W).T * B).sum(1)
    found: Numbers = (W**2).sum(0) + 2 * s * crossed + s**2 * ((B @ (A @ A.T)) * B).sum(1)
    return np.sqrt(found)
