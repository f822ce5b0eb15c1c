"""Is a folded model the sum that it should be? Tensor by tensor, for models that no memory here holds.

What the adapter does not change must have the base's bytes. Of what it changes some rows are computed again in float64,
from the base's files and the adapter's, by another formula than the fold's; a row that differs fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from truetune.engines import adapter, family
from truetune.export.streamed import DTYPES, ROUNDING, Fold, stored
from truetune.models import tensorfile
from truetune.models.tensorfile import Place

SAMPLED = 16
"""Rows of each changed tensor."""


@dataclass(frozen=True)
class Sampled:
    """`largest` is the worst row's difference, as a share of what rounding explains: above 1 fails. `failed` names the
    first tensor that is not what it should be, with why."""

    tensors: int
    changed: int
    rows: int
    largest: float
    failed: str = ""

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


def check(fold: Fold, folder: Path) -> Sampled:
    """Every tensor of the folded model in `folder`. Raises InputError, OSError, ValueError for a damaged file."""
    base, made = every(fold.model), every(folder)
    if base.keys() != made.keys():
        other = sorted(base.keys() ^ made.keys())[0]
        return Sampled(len(made), len(fold.changed), 0, 0.0, f"{other} is in one of the two models only")
    largest, rows = 0.0, 0
    for name in sorted(base):
        if name not in fold.changed:
            if not same(base[name], made[name]):
                return Sampled(len(made), len(fold.changed), rows, largest, f"{name} is not the base's")
            continue
        found = apart(fold, base[name], made[name])
        largest, rows = max(largest, found), rows + min(SAMPLED, base[name].rows)
        if not found <= 1:
            return Sampled(len(made), len(fold.changed), rows, largest, f"{name} is not what base and adapter make")
    return Sampled(len(made), len(fold.changed), rows, largest)


def every(folder: Path) -> dict[str, Place]:
    paths = sorted(folder.glob("*.safetensors"))
    return {place.tensor.name: place for path in paths for place in tensorfile.places(path)}


def same(one: Place, other: Place) -> bool:
    if one.tensor != other.tensor:
        return False
    return all(a == b for a, b in zip(tensorfile.copied(one), tensorfile.copied(other), strict=True))


def apart(fold: Fold, base: Place, made: Place) -> float:
    """The largest difference of some rows, as a share of what rounding explains."""
    if base.tensor.shape != made.tensor.shape or made.tensor.dtype not in DTYPES:
        return float("inf")
    largest = 0.0
    for row in chosen(base):
        wanted, found = expected(fold, base, row), stored(made, row, row + 1)[0].double().numpy()
        allowed = ROUNDING[made.tensor.dtype] * max(float(np.abs(wanted).max()), 1e-30)
        largest = max(largest, float(np.abs(wanted - found).max()) / allowed)
    return largest


def chosen(place: Place) -> Iterator[int]:
    """Rows from all over a tensor, the same every time: the first, the last, and drawn ones."""
    draw = np.random.default_rng([len(place.tensor.name), place.rows])
    found = {0, place.rows - 1, *draw.integers(0, place.rows, SAMPLED).tolist()}
    yield from sorted(found)[:SAMPLED]


def expected(fold: Fold, base: Place, row: int) -> NDArray[np.float64]:
    """A row of the folded weight in float64, as it is stored."""
    module = fold.changed[base.tensor.name]
    A, B = (matrix.double().numpy() for matrix in fold.layers[module])
    change = A[:, row] @ B.T if fold.transposed else B[row] @ A
    values: NDArray[np.float64] = stored(base, row, row + 1)[0].double().numpy() + fold.part.layout.scale * change
    if not fold.part.layout.dora:
        return values
    magnitude = fold.part.tensors[f"{adapter.PREFIX}{module}{family.MAGNITUDE}"].double().numpy()
    if not fold.transposed:
        scaled: NDArray[np.float64] = magnitude[row] * values / np.linalg.norm(values)
        return scaled
    return magnitude * values / lengths(fold, base, A, B)


def lengths(fold: Fold, base: Place, A: NDArray[np.float64], B: NDArray[np.float64]) -> NDArray[np.float64]:
    """‖W + s B A‖ of each output, of a weight [I, O]: ‖w‖² + 2 s b·(A w) + s² b A Aᵀ bᵀ by output."""
    W = stored(base, 0, base.rows).to(torch.float64).numpy()
    s = fold.part.layout.scale
    crossed = ((A @ W).T * B).sum(1)
    found: NDArray[np.float64] = (W**2).sum(0) + 2 * s * crossed + s**2 * ((B @ (A @ A.T)) * B).sum(1)
    return np.sqrt(found)
