"""Where a fresh adapter starts, beside nothing: as the part of the weight that matters most.

Each takes W [O, I], the rank and LoRA's scale, and returns A [r, I] and B [O, r], float32. The base keeps this part in
its files, so what is saved is the difference that training made: an adapter of twice the rank, for the untouched base.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from truetune.engines.torch.lora import Pair


def pissa(weight: torch.Tensor, r: int, scale: float) -> Pair:
    """PiSSA (Meng et al. 2024, arXiv 2404.02948): scale · B A are the r largest singular values of W = U S Vᵀ, with
    √S on each side."""
    U, S, V = torch.linalg.svd(weight.float(), full_matrices=False)
    root = (S[:r] / scale).sqrt()
    return root[:, None] * V[:r], U[:, :r] * root


def olora(weight: torch.Tensor, r: int, scale: float) -> Pair:
    """OLoRA (Büyükakyüz 2024, arXiv 2406.01775): of W = Q R, B is the first r columns of Q, and A the
    first r rows of R."""
    Q, R = torch.linalg.qr(weight.float())
    return R[:r], Q[:, :r]


TABLE: dict[str, Callable[[torch.Tensor, int, float], Pair]] = {"pissa": pissa, "olora": olora}
