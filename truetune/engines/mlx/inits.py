"""Where a fresh adapter starts, beside nothing: as the part of the weight that matters most. See torch's `inits`.

Each takes W [O, I], the rank and LoRA's scale, and returns A [r, I] and B [O, r], float32. NumPy's, since MLX brings
decompositions for processors only, and on some systems over a slow library.
"""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import numpy as np

from truetune.engines.mlx.lora import Pair


def pissa(weight: mx.array, r: int, scale: float) -> Pair:
    """PiSSA (Meng et al. 2024, arXiv 2404.02948): scale · B A are the r largest singular values of W = U S Vᵀ, with
    √S on each side."""
    U, S, V = np.linalg.svd(np.array(weight.astype(mx.float32)), full_matrices=False)
    root = np.sqrt(S[:r] / np.float32(scale))
    return mx.array(root[:, None] * V[:r]), mx.array(U[:, :r] * root)


def olora(weight: mx.array, r: int, scale: float) -> Pair:
    """OLoRA (Büyükakyüz 2024, arXiv 2406.01775): of W = Q R, B is the first r columns of Q, and A the
    first r rows of R."""
    Q, R = np.linalg.qr(np.array(weight.astype(mx.float32)))
    return mx.array(R[:r]), mx.array(Q[:, :r])


TABLE: dict[str, Callable[[mx.array, int, float], Pair]] = {"pissa": pissa, "olora": olora}
