"""Products of many rows with a matrix on a CPU, by whichever of torch's two libraries is faster at them.

MKL does not use the wide registers of AMD's processors, oneDNN does: on a Zen 4, one thread, 1,500 rows, float32, it
multiplies 8 to 15 % faster, and with an adapter's narrow matrices up to twice as fast. The choice follows from the
processor alone, so that a run gone on with has the same bits.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

ROWS, ROUND = 64, 32
"""Fewer rows are left to MKL, and so are those that are no multiple: oneDNN keeps 0.7 MB of code for each number of
rows and each matrix, by which a training of mixed rows would grow by 10 MB a step, up to a gigabyte."""


def forward(x: torch.Tensor, W: torch.Tensor) -> torch.Tensor:
    """x [N, I] and W [O, I] -> x Wᵀ [N, O]; W may be a view with any strides."""
    return linear(x, W) if wide(x, W) else torch.mm(x, W.t())


def backward(grad: torch.Tensor, W: torch.Tensor) -> torch.Tensor:
    """grad [N, O] and W [O, I] -> grad W [N, I]."""
    return forward(grad, W.t())


def sum_backward(grad: torch.Tensor, W: torch.Tensor, small: torch.Tensor, A: torch.Tensor) -> torch.Tensor:
    """grad W + small A, with small [N, r] and A [r, I]: MKL adds while it multiplies, oneDNN multiplies first."""
    if wide(grad, W):
        return backward(grad, W).addmm_(small, A)
    return torch.mm(small, A).addmm_(grad, W)


def outer(small: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """small [N, r] and x [N, I] -> smallᵀ x [r, I]."""
    return linear(small.t(), x.t()) if wide(x, small) else torch.mm(small.t(), x)


def linear(x: torch.Tensor, W: torch.Tensor) -> torch.Tensor:
    """x Wᵀ by oneDNN; both may be views with any strides."""
    return torch.ops.mkldnn._linear_pointwise(x, W, None, "none", [], "")


def wide(x: torch.Tensor, W: torch.Tensor) -> bool:
    """Whether this product is oneDNN's."""
    fits = len(x) >= ROWS and len(x) % ROUND == 0
    return fits and x.dtype == W.dtype == torch.float32 and x.device.type == "cpu" and here()


def rounded(rows: int) -> int:
    """How many rows to give where there are so many, for a fast product."""
    return rows + -rows % ROUND if rows >= ROWS and here() else rows


def missing(rows: int, device: torch.device) -> int:
    """How many rows are missing to a fast product, where there are so many."""
    return rounded(rows) - rows if device.type == "cpu" else 0


def available() -> bool:
    """Whether this torch has oneDNN, and the operation that gives it products of float32."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@cache
def here() -> bool:
    """Whether this is a processor of AMD with AVX-512, and a torch that lets oneDNN multiply float32."""
    known = Path("/proc/cpuinfo")
    return (
        available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and known.exists()
        and "AuthenticAMD" in known.read_text("utf-8", "replace")[:1000]
    )
