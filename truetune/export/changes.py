"""What an adapter makes of a weight of its base, by rows and in float32: the changes that a merge folds in.

LoRA's family (Hu et al. 2021, arXiv 2106.09685; DoRA: Liu et al. 2024, arXiv 2402.09353), the factors of IA³ (Liu et
al. 2022, arXiv 2205.05638), modules that were trained whole, and rows of single tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from truetune.engines import adapter, family
from truetune.engines.torch import files
from truetune.export import lowrank
from truetune.export.basis import Weight

FACTOR = ".ia3_l"


class Change(Protocol):
    """Of one weight."""

    def folded(self, base: Weight) -> Iterator[torch.Tensor]:
        """float32 rows of the changed weight, block by block in order."""
        ...

    def shape(self, base: tuple[int, ...]) -> tuple[int, ...] | None:
        """Of a weight that it fits, given the one that stands there."""
        ...


@dataclass(frozen=True)
class LowRank:
    """W + s B A; of DoRA m ⊙ that / its norm by output. `transposed`: W is stored as [I, O], as GPT-2's is."""

    A: torch.Tensor
    B: torch.Tensor
    scale: float
    transposed: bool
    magnitude: torch.Tensor | None = None

    def shape(self, base: tuple[int, ...]) -> tuple[int, ...]:
        inputs, outputs = self.A.shape[1], self.B.shape[0]
        return (inputs, outputs) if self.transposed else (outputs, inputs)

    def folded(self, base: Weight) -> Iterator[torch.Tensor]:
        factor = self.rescaled(base)
        for first, last in base.blocks():
            rows = self.added(base, first, last)
            if factor is not None:
                rows *= factor[None] if self.transposed else factor[first:last, None]
            yield rows

    def added(self, base: Weight, first: int, last: int) -> torch.Tensor:
        """Rows of W + s B A as they are stored, float32; of GPT-2 a row is one of inputs."""
        change = self.A[:, first:last].t() @ self.B.t() if self.transposed else self.B[first:last] @ self.A
        return base.read(first, last).float() + change * self.scale

    def rescaled(self, base: Weight) -> torch.Tensor | None:
        """Of DoRA: m / ‖W + s B A‖ of each output, float32 [O]; None for others."""
        if self.magnitude is None:
            return None
        squares = torch.zeros(self.B.shape[0], dtype=torch.float64)
        for first, last in base.blocks():
            rows = self.added(base, first, last).double().square()
            if self.transposed:
                squares += rows.sum(0)
            else:
                squares[first:last] = rows.sum(1)
        return (self.magnitude.double() / squares.sqrt()).float()


@dataclass(frozen=True)
class Scaled:
    """IA³: each row, or each column, times a factor. `factors` [O, 1] or [1, I] as the weight is stored, of a bias
    [O]."""

    factors: torch.Tensor

    def shape(self, base: tuple[int, ...]) -> tuple[int, ...] | None:
        fits = len(base) == self.factors.ndim and all(
            one in (1, size) for one, size in zip(self.factors.shape, base, strict=True)
        )
        return base if fits else None

    def folded(self, base: Weight) -> Iterator[torch.Tensor]:
        for first, last in base.blocks():
            by_row = self.factors[first:last] if self.factors.shape[0] > 1 else self.factors
            yield base.read(first, last).float() * by_row


@dataclass(frozen=True)
class Whole:
    """What was trained whole stands in its place."""

    tensor: torch.Tensor

    def shape(self, base: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    def same(self, other: Whole) -> bool:
        return self.tensor.shape == other.tensor.shape and torch.equal(self.tensor, other.tensor)

    def folded(self, base: Weight) -> Iterator[torch.Tensor]:
        for first, last in base.blocks():
            yield self.tensor[first:last].float()


@dataclass(frozen=True)
class Rows:
    """Rows of single tokens: `rows` [n, H] stand for those of `ids`."""

    ids: tuple[int, ...]
    rows: torch.Tensor

    def shape(self, base: tuple[int, ...]) -> tuple[int, ...] | None:
        fits = len(base) == 2 and base[1:] == tuple(self.rows.shape[1:]) and max(self.ids) < base[0]
        return base if fits else None

    def folded(self, base: Weight) -> Iterator[torch.Tensor]:
        for first, last in base.blocks():
            found = base.read(first, last).float()
            for place, token in enumerate(self.ids):
                if first <= token < last:
                    found[token - first] = self.rows[place].float()
            yield found


def read(folder: Path) -> dict[str, Change] | None:
    """Name of a weight, or of a bias, in the model -> what an adapter makes of it; None for methods that no weight
    holds. Raises InputError as `lowrank.read` and `adapter.read_config`."""
    body = adapter.read_config(folder, adapter.KINDS)
    if body["peft_type"] == "LORA":
        return of_lora(lowrank.read(folder))
    return of_factors(body, folder) if body["peft_type"] == "IA3" else None


def of_lora(part: lowrank.Part) -> dict[str, Change]:
    found: dict[str, Change] = {}
    layout, transposed = part.layout, bool(part.body.get("fan_in_fan_out"))
    for module, (A, B) in part.layers.items():
        magnitude = part.tensors[f"{adapter.PREFIX}{module}{family.MAGNITUDE}"] if layout.dora else None
        found[f"{module}.weight"] = LowRank(A, B, layout.scale, transposed, magnitude)
    for module, ids in layout.rows.items():
        rows = part.tensors[f"{adapter.PREFIX}{module}{family.ROWS}"]
        found[f"{module}.weight"] = Rows(ids, rows)
    return found | {name: Whole(part.tensors[adapter.PREFIX + name]) for name in layout.whole}


def of_factors(body: Mapping[str, Any], folder: Path) -> dict[str, Change]:
    """A factor of an output scales its bias, too."""
    found: dict[str, Change] = {}
    for name, tensor in files.load(folder / adapter.WEIGHTS, "adapter.damaged").items():
        module, factors = name.removeprefix(adapter.PREFIX).removesuffix(FACTOR), tensor.float()
        outputs = factors.shape[-1] == 1
        found[f"{module}.weight"] = Scaled(factors.t() if body.get("fan_in_fan_out") else factors)
        if outputs:
            found[f"{module}.bias"] = Scaled(factors.flatten())
    return found
