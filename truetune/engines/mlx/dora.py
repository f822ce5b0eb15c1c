"""DoRA (Liu et al. 2024, arXiv 2402.09353); the formula stands with torch's, and so does how the lengths are found."""

from __future__ import annotations

from typing import ClassVar

import mlx.core as mx
import mlx.nn as nn

from truetune.engines.base import Method
from truetune.engines.mlx.lora import LoRALinear

SMALLEST = 1e-12
"""A length of less counts as this: a row of zeros stays one."""


class DoRALinear(LoRALinear):
    """A LoRA layer whose rows have lengths of their own."""

    PARTS: ClassVar[dict[str, str]] = {**LoRALinear.PARTS, "magnitude": "lora_magnitude_vector"}

    def __init__(self, base: nn.Linear, method: Method) -> None:
        super().__init__(base, method)
        self._squares = squares(base.weight)
        self.magnitude = mx.sqrt(self._squares)

    def changed(self, x: mx.array) -> mx.array:
        """As PEFT: what dropout takes from the addition's input, the lengths do not change either."""
        weight = self.base.weight
        change = self.change(self.lora_A, self.lora_B)
        lengths = mx.stop_gradient(norms(weight, self._squares, *change, self._scale))
        kept = self.dropped(x) if self.drops else x
        y = (kept @ weight.T + self.product(kept, *change)) * (self.magnitude / lengths).astype(x.dtype)
        if self.drops:
            rest = x - kept
            y = y + rest @ weight.T
            y = y if self._taken is None else y - self.product(rest, *self._taken)
        return y + self.base.bias if "bias" in self.base else y


def squares(weight: mx.array) -> mx.array:
    """‖w‖² of each row, float32 [O]."""
    return mx.square(weight.astype(mx.float32)).sum(1)


def norms(weight: mx.array, squares: mx.array, A: mx.array, B: mx.array, scale: float) -> mx.array:
    """The length of each row of W + scale · B A, float32 [O]; `squares` are those of W's rows."""
    crossed = (weight @ A.T.astype(weight.dtype)).astype(mx.float32)
    total = squares + 2 * scale * (crossed * B).sum(1) + scale**2 * ((B @ (A @ A.T)) * B).sum(1)
    return mx.sqrt(mx.maximum(total, SMALLEST**2))
