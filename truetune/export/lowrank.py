"""Adapters of LoRA's family read as what they are: for each layer a low-rank change of its weight, ΔW = s · B A.

Only the factors are ever held, never ΔW [O, I]: lengths and distances come from products of rank by rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from truetune.engines import adapter, family
from truetune.engines.family import Layout
from truetune.engines.torch import files
from truetune.models import packed

Pair = tuple[torch.Tensor, torch.Tensor]
"""A [r, I] and B [O, r]."""
ENDS = (".lora_A.weight", ".lora_B.weight")


@dataclass(frozen=True)
class Part:
    """One adapter from its folder."""

    folder: Path
    body: Mapping[str, Any]
    layout: Layout
    tensors: Mapping[str, torch.Tensor]
    """All that its file holds, by PEFT's names."""

    @property
    def rank(self) -> int:
        return int(self.body["r"])

    @property
    def layers(self) -> dict[str, Pair]:
        """Module -> A and B, float32."""
        names = [name.removesuffix(ENDS[0]) for name in self.tensors if name.endswith(ENDS[0])]
        pairs = ((name, [self.tensors[name + end].float() for end in ENDS]) for name in names)
        return {name.removeprefix(adapter.PREFIX): (A, B) for name, (A, B) in pairs}


def read(folder: Path) -> Part:
    """An adapter of LoRA's family. Raises InputError as `family.read`, and `adapter.damaged` for an A without its B or
    of another rank than the settings say."""
    tensors = files.load(folder / adapter.WEIGHTS, "adapter.damaged")
    body, layout = family.read(folder, tensors)
    part = Part(folder, body, layout, tensors)
    refuse_unpaired(part)
    return part


def refuse_unpaired(part: Part) -> None:
    path, r = folder_file(part), part.rank
    names = {name.removesuffix(end) for name in part.tensors for end in ENDS if name.endswith(end)}
    found = {name: tuple(tensor.shape) for name, tensor in part.tensors.items()}
    places: dict[str, tuple[int, ...]] = {}
    for name in names:
        A, B = (found.get(name + end, ()) for end in ENDS)
        places |= {name + ENDS[0]: (r, *A[1:2]), name + ENDS[1]: (*B[:1], r)}
    adapter.refuse_mismatch(places, {name: found[name] for name in found if name.endswith(ENDS)}, path)


def folder_file(part: Part) -> str:
    return str(part.folder / adapter.WEIGHTS)


def length(pair: Pair) -> float:
    """‖B A‖ (Frobenius), in float64."""
    A, B = (matrix.double() for matrix in pair)
    return math.sqrt(max(0.0, float(((B.t() @ B) * (A @ A.t())).sum())))


def joined(pairs: Sequence[Pair], weights: Sequence[float]) -> Pair:
    """A and B of Σ weight · B A: the factors beside each other, their ranks added."""
    return (
        torch.cat([A.double() * weight for (A, _), weight in zip(pairs, weights, strict=True)]),
        torch.cat([B.double() for _, B in pairs], dim=1),
    )


def apart(one: Mapping[str, Pair], other: Mapping[str, Pair]) -> tuple[float, float]:
    """(‖one − other‖, ‖other‖) over all layers together; a layer that one of them lacks counts as nothing there."""
    between, whole = 0.0, 0.0
    for name in one.keys() | other.keys():
        sides = [(pairs[name], sign) for pairs, sign in ((one, 1.0), (other, -1.0)) if name in pairs]
        between += length(joined([pair for pair, _ in sides], [sign for _, sign in sides])) ** 2
        whole += length(other[name]) ** 2 if name in other else 0.0
    return math.sqrt(between), math.sqrt(whole)


def scaled(layers: Mapping[str, Pair], scale: float) -> dict[str, Pair]:
    return {name: (A.double() * scale, B.double()) for name, (A, B) in layers.items()}


def write(folder: Path, like: Part, layers: Mapping[str, Pair], **settings: Any) -> None:
    """An adapter in PEFT's layout: these layers, the settings of `like` with these over them (`r`, `lora_alpha`, …),
    and all else that `like` holds."""
    same = layers.keys() == like.layers.keys()
    targets = like.body["target_modules"] if same else sorted(layers)
    kept = {name: tensor for name, tensor in like.tensors.items() if not name.endswith(ENDS)}
    for name, pair in layers.items():
        kept |= {f"{adapter.PREFIX}{name}{end}": matrix for end, matrix in zip(ENDS, pair, strict=True)}
    bits = packed.noted(like.folder / adapter.WEIGHTS)
    files.write(folder / adapter.WEIGHTS, kept, **({packed.NOTE: str(bits)} if bits else {}))
    adapter.write_config(folder, {**like.body, "target_modules": targets, **settings})
