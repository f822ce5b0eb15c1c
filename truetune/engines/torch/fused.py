"""Element-wise work in fewer passes: RMSNorm, and the gate of a SwiGLU, as autograd functions that keep less.

A module takes part where its own forward gives the same on a probe, so a family that computes otherwise (Gemma's norm,
GELU gates) stays as it is. Each function stands beside its plain formula in tests/engines/test_fused.py.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Norm(torch.autograd.Function):
    """RMSNorm (Zhang & Sennrich 2019, arXiv 1910.07467) with frozen weights: weight · x / √(mean x² + ε).

    x [.., H] float32, weight [H]; keeps x and one number for each token.
    """

    @staticmethod
    def forward(ctx, x, weight, epsilon):
        square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
        inverse = square.div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        return (x * inverse).mul_(weight)

    @staticmethod
    def backward(ctx, upstream):
        x, weight, inverse = ctx.saved_tensors
        grad = upstream * weight
        along = torch.linalg.vecdot(grad, x)[..., None] * inverse.pow(3) / -x.shape[-1]
        return grad.mul_(inverse).addcmul_(x, along), None, None


class Gate(torch.autograd.Function):
    """silu(gate) · up (Shazeer 2020, arXiv 2002.05202), both of one shape; silu(gate) is computed again, not kept."""

    @staticmethod
    def forward(ctx, gate, up):
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx, upstream):
        gate, up = ctx.saved_tensors
        grad_up = F.silu(gate).mul_(upstream)
        return torch.ops.aten.silu_backward(upstream * up, gate), grad_up


class FusedNorm(nn.Module):
    """In front of a family's RMSNorm."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        plain = x.dtype != torch.float32 or self.weight.requires_grad
        return super().forward(x) if plain else self.fused(x)

    def fused(self, x: torch.Tensor) -> torch.Tensor:
        return Norm.apply(x, self.weight, epsilon(self))


class FusedGate(nn.Module):
    """In front of a family's gated block."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fused(x)

    def fused(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(Gate.apply(self.gate_proj(x), self.up_proj(x)))


def install(model: nn.Module) -> None:
    """Put the functions into every module of the model that computes the same."""
    for module in model.modules():
        kind, width = candidate(module)
        if kind is not None and same(module, kind, width):
            module.__class__ = combined(kind, type(module))


def candidate(module: nn.Module) -> tuple[type[nn.Module] | None, int]:
    """What may stand in front of the module, and the width of its input."""
    weight = getattr(module, "weight", None)
    if type(module).__name__.endswith("RMSNorm") and epsilon(module) is not None and weight is not None:
        return FusedNorm, len(weight)
    parts = all(isinstance(getattr(module, name, None), nn.Module) for name in ("gate_proj", "up_proj", "down_proj"))
    if parts and isinstance(getattr(module, "hidden_size", None), int):
        return FusedGate, module.hidden_size
    return None, 0


def epsilon(module: nn.Module) -> float | None:
    return getattr(module, "variance_epsilon", getattr(module, "eps", None))


def same(module: nn.Module, kind: type[nn.Module], width: int) -> bool:
    """Whether the module gives on two random vectors what it would give with the function."""
    parameter = next(module.parameters(), None)
    if parameter is None or parameter.dtype != torch.float32:
        return False
    x = torch.randn(2, width, generator=torch.Generator().manual_seed(0)).to(parameter.device)
    with torch.no_grad():
        return torch.allclose(module(x), kind.fused(module, x), rtol=1e-4, atol=1e-6)


KINDS: dict[tuple[type[nn.Module], type[nn.Module]], type[nn.Module]] = {}


def combined(kind: type[nn.Module], family: type[nn.Module]) -> type[nn.Module]:
    """The family's class with this forward before its own."""
    return KINDS.setdefault((kind, family), type(family.__name__, (kind, family), {}))
