"""IA³ while decoding: rows of different adapters, and of none, in one forward, each with factors of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from truetune.engines import adapter

if TYPE_CHECKING:
    from truetune.engines.torch.routed import Routing


@dataclass(frozen=True)
class Factor:
    """What a layer's inputs ([I], where `inside`) or its outputs ([O]) are multiplied with."""

    values: torch.Tensor
    inside: bool


class Factored(nn.Module):
    """A linear layer and the factors of the adapters that change it."""

    def __init__(self, base: nn.Module, routing: Routing) -> None:
        super().__init__()
        self.base, self.routing = base, routing
        self.factors: dict[str, Factor] = {}

    def put(self, name: str, factor: Factor | None) -> None:
        """Set or forget an adapter's factors."""
        self.factors.pop(name, None)
        if factor is not None:
            self.factors[name] = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.times(self.base(self.times(x, inside=True)), inside=False)

    def times(self, x: torch.Tensor, inside: bool) -> torch.Tensor:
        """x [.., N, D] with the factors of each token's adapter, where that has any on this side."""
        here = [name for name in self.routing.names if (one := self.factors.get(name)) and one.inside == inside]
        if not here:
            return x
        if self.routing.tokens is None:
            return x * self.factors[here[0]].values
        ones = torch.ones_like(self.factors[here[0]].values)
        rows = [self.factors[name].values if name in here else ones for name in self.routing.names]
        return x * torch.stack([*rows, ones])[self.routing.tokens].view_as(x)  # −1, the base, is the last one


def read(
    folder: Path, body: dict, tensors: dict[str, torch.Tensor], linears: dict[str, nn.Module], like: torch.Tensor
) -> dict[str, Factor]:
    """Layer -> its factors; exactly the layers that the adapter's configuration names."""
    path = folder / adapter.WEIGHTS
    layers = adapter.chosen(linears, body.get("target_modules") or [])
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    inner = {name for name in layers if shapes.get(key(name), ())[:1] == (1,)}
    adapter.refuse_mismatch({key(name): shape(linears[name], name in inner) for name in layers}, shapes, str(path))
    return {name: Factor(tensors[key(name)].flatten().to(like.device, like.dtype), name in inner) for name in layers}


def key(module: str) -> str:
    return f"{adapter.PREFIX}{module}.ia3_l"


def shape(layer: nn.Module, inside: bool) -> tuple[int, int]:
    """PEFT's shape of the factors of a layer: [1, I] or [O, 1]."""
    first, second = layer.weight.shape
    outputs, inputs = (second, first) if isinstance(layer, Conv1D) else (first, second)
    return (1, inputs) if inside else (outputs, 1)
