"""Attention of all segments of a packed row in one call, on a GPU: FlashAttention-2 (Dao 2023, arXiv 2307.08691) for
texts of varying length, as torch ships it.

`attention.packed` asks `takes` for each call. What the kernel cannot express (a softcap, dropout, a beginning that two
texts share, float32) goes on in the loop over segments. So does everything where the kernel, tried once on the device
with the same heads and window, is further from float32 than the plain formula is in the same number type.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from importlib import import_module
from itertools import accumulate, pairwise

import torch

from truetune.engines.torch import trial

LENGTHS = (5, 1, 37, 130)
"""Tokens of the segments on which the kernel is tried."""


def takes(
    query: torch.Tensor, key: torch.Tensor, segments: Sequence[tuple[int, ...]], softcap: float | None, dropout: float,
    window: int | None = None,
) -> bool:  # fmt: skip
    """Whether the kernel has the call; query [1, H, T, D], key [1, K, T, D]. One whole text is SDPA's, which knows
    faster kernels for it."""
    plain = softcap is None and not dropout and all(len(segment) == 2 for segment in segments)
    if not (plain and query.is_cuda and narrow(query.dtype) and (len(segments) > 1 or window is not None)):
        return False
    return not refusal(query.device, query.dtype, query.shape[1], key.shape[1], query.shape[3], window)


def narrow(dtype: torch.dtype) -> bool:
    return dtype in (torch.bfloat16, torch.float16)


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segments: Sequence[tuple[int, ...]],
    scaling: float | None, window: int | None,
) -> torch.Tensor:  # fmt: skip
    """Causal attention inside each segment (start, end), which follow one another: query [1, H, T, D], key and value
    [1, K, T, D] -> [1, T, H, D]. `window`: tokens that each sees, itself among them."""
    places, longest = bounds(tuple(segments), query.device)
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # [T, heads, D]
    reach = (-1 if window is None else window - 1, 0)
    grouped = q.shape[1] != k.shape[1]
    return kernel()(
        q, k, v, places, places, longest, longest, scale=scaling, window_size=reach, enable_gqa=grouped
    )[None]  # fmt: skip


@lru_cache(maxsize=4)
def bounds(segments: tuple[tuple[int, ...], ...], device: torch.device) -> tuple[torch.Tensor, int]:
    """Where segments begin and the last one ends, int32 [segments + 1], and the longest of them. All layers of a
    micro-batch ask for the same; the copy does not wait for the device."""
    ends = torch.tensor([segments[0][0], *(segment[1] for segment in segments)], dtype=torch.int32)
    if device.type == "cuda":
        ends = ends.pin_memory()
    return ends.to(device, non_blocking=True), max(end - start for start, end, *_ in segments)


def kernel() -> Callable[..., torch.Tensor]:
    """torch's own, imported when it is first needed: it brings the compiler along."""
    return import_module("torch.nn.attention.varlen").varlen_attn


@cache
def refusal(device: torch.device, dtype: torch.dtype, heads: int, kv_heads: int, dim: int, window: int | None) -> str:
    """Why the kernel is not used for such calls on this device; nothing where it is right, in value and gradient."""
    segments = tuple(pairwise([0, *accumulate(LENGTHS)]))
    shapes = [(1, count, segments[-1][1], dim) for count in (heads, kv_heads, kv_heads)]
    rest = (segments, dim**-0.5, window)
    return trial.refusal(lambda *x: attend(*x, *rest), lambda *x: plain(*x, *rest), shapes, device, dtype)


def plain(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segments: Sequence[tuple[int, ...]],
    scaling: float | None, window: int | None,
) -> torch.Tensor:  # fmt: skip
    """As `attend`, by the formula: softmax(scaling · Q Kᵀ) V over all pairs of tokens, those that may not be seen at
    −∞. For tests and trials: scores stand there whole."""
    owner = torch.repeat_interleave(torch.tensor([end - start for start, end, *_ in segments])).to(query.device)
    place = torch.arange(len(owner), device=query.device)
    distance = place[:, None] - place[None, :]
    seen = (owner[:, None] == owner[None, :]) & (distance >= 0)
    seen &= distance < (len(owner) if window is None else window)
    groups = query.shape[1] // key.shape[1]
    k, v = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    scores = query @ k.transpose(2, 3) * (query.shape[3] ** -0.5 if scaling is None else scaling)
    weights = scores.float().masked_fill(~seen, float("-inf")).softmax(-1).to(query.dtype)
    return (weights @ v).transpose(1, 2)
