"""Muon in fp32: momentum whose update is made orthogonal (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

torch.optim.Muon computes in bf16, which a CPU without bf16 units does many times slower.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch


def orthogonal(matrix: torch.Tensor, rounds: int = 5) -> torch.Tensor:
    """About the nearest matrix with singular values of one, by a quintic Newton-Schulz iteration."""
    x = matrix / (matrix.norm() + 1e-7)
    if tall := x.shape[0] > x.shape[1]:
        x = x.T
    for _ in range(rounds):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """For the weight matrices of the layers; embeddings and norms want AdamW. The update has AdamW's usual size."""

    def __init__(self, params: Iterable[torch.Tensor], lr: float, momentum: float = 0.95, decay: float = 0.01) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weight in group["params"]:
                speed = self.state[weight].setdefault("speed", torch.zeros_like(weight))
                speed.lerp_(weight.grad, 1 - group["momentum"])
                update = orthogonal(weight.grad.lerp(speed, group["momentum"]))
                weight.mul_(1 - group["lr"] * group["decay"])
                weight.sub_(update, alpha=group["lr"] * 0.2 * max(weight.shape) ** 0.5)
