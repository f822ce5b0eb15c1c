"""LoRA (Hu et al. 2021, arXiv 2106.09685): y = x Wᵀ + bias + scale · (drop(x) Aᵀ) Bᵀ, with PEFT's names and shapes
(A [r, in], B [out, r]; mlx_lm keeps both transposed)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar

import mlx.core as mx
import mlx.nn as nn

from truetune.engines import adapter
from truetune.engines.base import Method

Pair = tuple[mx.array, mx.array]
"""A [r, I] and B [O, r]."""


class LoRALinear(nn.Module):
    """A frozen linear layer with a trained rank-r addition."""

    PARTS: ClassVar[dict[str, str]] = {"lora_A": "lora_A.weight", "lora_B": "lora_B.weight"}
    """What is trained, and what PEFT calls it."""

    def __init__(self, base: nn.Linear, method: Method) -> None:
        super().__init__()
        outputs, inputs = base.weight.shape
        self.base = base
        self.lora_A = mx.zeros((method.r, inputs))
        self.lora_B = mx.zeros((outputs, method.r))
        self._scale, self._dropout = method.scale, method.dropout
        self._taken: Pair | None = None
        self._key: mx.array | None = None
        self._on = True

    def reset(self, name: str, seed: int) -> None:
        """PEFT's start."""
        self.lora_A = mx.array(adapter.start(name, *self.lora_A.shape, seed))
        self.lora_B = mx.zeros(self.lora_B.shape)

    def take(self, start: Pair) -> None:
        """Begin as a part of W (A [r, I], B [O, r]), which is taken away from it: the layer's output stays."""
        self.lora_A, self.lora_B = start
        self._taken = start

    @property
    def taken(self) -> Pair | None:
        """A and B at the start of training where they are not nothing: this part of W is theirs, and W does without."""
        return self._taken

    def change(self, A: mx.array, B: mx.array) -> Pair:
        """A and B such that the layer has W + scale · B A: of twice the rank where a part of W was taken."""
        if self._taken is None:
            return A, B
        return mx.concatenate([A, self._taken[0]]), mx.concatenate([B, -self._taken[1]], axis=1)

    def parted(self, A: mx.array, B: mx.array) -> Pair:
        """Undo `change`, also of another start: what is trained, after the rest is taken away from W."""
        r = len(self.lora_A)
        self._taken = mx.contiguous(A[r:]), mx.contiguous(-B[:, r:])
        return mx.contiguous(A[:r]), mx.contiguous(B[:, :r])

    def __call__(self, x: mx.array) -> mx.array:
        return self.changed(x) if self._on else self.base(x)

    def changed(self, x: mx.array) -> mx.array:
        """x [.., I] -> [.., O], with the addition."""
        y = self.base(x)
        if not self.drops:
            return y + self.product(x, *self.change(self.lora_A, self.lora_B))
        y = y + self.product(self.dropped(x), self.lora_A, self.lora_B)
        return y if self._taken is None else y - self.product(x, *self._taken)  # W itself knows no dropout

    def product(self, x: mx.array, A: mx.array, B: mx.array) -> mx.array:
        return ((x @ A.T.astype(x.dtype)) * self._scale) @ B.T.astype(x.dtype)

    @property
    def drops(self) -> bool:
        """Whether the running forward has dropout."""
        return self._key is not None and self._dropout > 0

    def dropped(self, x: mx.array) -> mx.array:
        """What dropout leaves of x."""
        kept = mx.random.bernoulli(1 - self._dropout, x.shape, key=self._key)
        return x * kept / (1 - self._dropout)

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
    return {
        f"{adapter.PREFIX}{name}.{title}": layer[own]
        for name, layer in layers.items()
        for own, title in layer.PARTS.items()
    }


def put(layers: Mapping[str, LoRALinear], values: Mapping[str, mx.array]) -> None:
    """Set the parameters by PEFT's names."""
    for name, layer in layers.items():
        for own, title in layer.PARTS.items():
            layer[own] = values[f"{adapter.PREFIX}{name}.{title}"]
