"""DoRA (Liu et al. 2024, arXiv 2402.09353): a row of the weight is its length, which is trained, times its direction,
which LoRA changes: y = x (m ⊙ V / ‖V‖)ᵀ + bias with V = W + scale · B A.

As in the paper's section 4.3 the length ‖V‖ counts as a constant in the backward pass. V itself is never made:
‖w + s b A‖² = ‖w‖² + 2 s b·(A w) + s² b (A Aᵀ) bᵀ for a row w of W and the same row b of B.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from truetune.engines.base import Method
from truetune.engines.torch.lora import LoRALinear, Pair

SMALLEST = 1e-12
"""A length of less counts as this: a row of zeros stays one."""


class DoRALinear(LoRALinear):
    """A LoRA layer whose rows have lengths of their own."""

    def __init__(self, base: nn.Module, method: Method) -> None:
        super().__init__(base, method)
        self.squares = squares(self.weight)
        self.magnitude = nn.Parameter(self.squares.sqrt())

    def tensors(self) -> dict[str, nn.Parameter]:
        return {**super().tensors(), "lora_magnitude_vector": self.magnitude}

    def changed(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """PEFT's: what dropout takes from the addition's input, the lengths do not change either."""
        kept = x if mask is None else x * mask / (1 - self.dropout)
        with torch.no_grad():
            lengths = norms(self.weight, self.squares, self.change(), self.scale)
        y = self.product(kept, None, None) * (self.magnitude / lengths).to(x.dtype)
        if mask is not None:
            y = y + F.linear(x - kept, self.weight)
            y = y if self.taken is None else y - self.without(x - kept)
        return y if self.base.bias is None else y + self.base.bias


def squares(weight: torch.Tensor) -> torch.Tensor:
    """‖w‖² of each row, float32 [O]."""
    return weight.detach().float().square().sum(1)


def norms(weight: torch.Tensor, squares: torch.Tensor, change: Pair, scale: float) -> torch.Tensor:
    """The length of each row of W + scale · B A, float32 [O]; `squares` are those of W's rows."""
    A, B = change
    crossed = (weight @ A.t().to(weight.dtype)).float()
    total = squares + 2 * scale * (crossed * B).sum(1) + scale**2 * ((B @ (A @ A.t())) * B).sum(1)
    return total.clamp(min=SMALLEST**2).sqrt()
