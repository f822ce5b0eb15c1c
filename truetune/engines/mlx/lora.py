"""LoRA (Hu et al. 2021, arXiv 2106.09685): y = x Wᵀ + bias + scale · (drop(x) Aᵀ) Bᵀ, with PEFT's names and shapes
(A [r, in], B [out, r]; mlx_lm keeps both transposed)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import mlx.core as mx
import mlx.nn as nn

from truetune.engines import adapter
from truetune.engines.base import Method


class LoRALinear(nn.Module):
    """A frozen linear layer with a trained rank-r addition."""

    def __init__(self, base: nn.Linear, method: Method) -> None:
        super().__init__()
        outputs, inputs = base.weight.shape
        self.base = base
        self.lora_A = mx.zeros((method.r, inputs))
        self.lora_B = mx.zeros((outputs, method.r))
        self._scale, self._dropout = method.scale, method.dropout
        self._key: mx.array | None = None
        self._on = True

    def reset(self, name: str, seed: int) -> None:
        """PEFT's start."""
        self.lora_A = mx.array(adapter.start(name, *self.lora_A.shape, seed))
        self.lora_B = mx.zeros(self.lora_B.shape)

    def __call__(self, x: mx.array) -> mx.array:
        y = self.base(x)
        if not self._on:
            return y
        if self._key is not None and self._dropout:
            kept = mx.random.bernoulli(1 - self._dropout, x.shape, key=self._key)
            x = x * kept / (1 - self._dropout)
        h = (x @ self.lora_A.T.astype(x.dtype)) * self._scale
        return y + h @ self.lora_B.T.astype(x.dtype)

    def draw(self, key: mx.array | None) -> None:
        """The random key of the next forward's dropout; None = no dropout."""
        self._key = key


@contextmanager
def off(layers: Mapping[str, LoRALinear]) -> Iterator[None]:
    """The model without its additions."""
    for layer in layers.values():
        layer._on = False
    try:
        yield
    finally:
        for layer in layers.values():
            layer._on = True


def draw(layers: Mapping[str, LoRALinear], key: mx.array | None) -> None:
    """Hand every layer its key: the same one whether a layer runs once or again for the backward pass."""
    keys = [None] * len(layers) if key is None else list(mx.random.split(key, len(layers)))
    for layer, own in zip(layers.values(), keys, strict=True):
        layer.draw(own)


def parameters(layers: Mapping[str, LoRALinear]) -> dict[str, mx.array]:
    """PEFT's tensor names -> parameters."""
    return {adapter.key(name, matrix): layer[f"lora_{matrix}"] for name, layer in layers.items() for matrix in "AB"}


def put(layers: Mapping[str, LoRALinear], values: Mapping[str, mx.array]) -> None:
    """Set the parameters by PEFT's names."""
    for name, layer in layers.items():
        for matrix in "AB":
            layer[f"lora_{matrix}"] = values[adapter.key(name, matrix)]
