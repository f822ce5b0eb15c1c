"""Attention over packed sequences: several segments in one row, none of which sees another.

Registered with transformers' attention table, so the models' own forward stays as it is. The segments arrive as the
keyword `segments`, which the models hand on to their attention function untouched.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, pairwise

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

from truetune.engines.torch import varlen

NAME = "truetune"

HONOURED = {"sliding_window", "softcap", "position_ids", "use_cache", "is_causal", "output_attentions"}
HONOURED |= {"output_router_logits"}
"""Keywords of an attention call that this function understands or that change nothing in training."""


Segment = tuple[int, ...]
"""(start, end) of a text; (start, end, from, to, …) of the rest of one whose first tokens stand at each [from, to)."""


class Unsupported(Exception):
    """The model asks its attention for something that packing would not honour."""


def packed(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    segments: Sequence[Segment] = (),
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: object,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each segment, and to the tokens that it has elsewhere in the row.

    query [1, H, T, D], key and value [1, K, T, D] with H a multiple of K; returns [1, T, H, D].
    """
    refuse(module, attention_mask, others)
    if varlen.takes(query, key, segments, softcap, dropout, sliding_window):
        return varlen.attend(query, key, value, segments, scaling, sliding_window), None
    parts = [
        segment(q, k, v, scaling, dropout, sliding_window, softcap).transpose(1, 2)
        for q, k, v in zip(split(query, segments), seen(key, segments), seen(value, segments), strict=True)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1), None


def split(x: torch.Tensor, segments: Sequence[Segment]) -> tuple[torch.Tensor, ...]:
    """x [1, H, T, D] by segments, which follow one another; its gradient is put together once, and not once each."""
    return x.split([segment[1] - segment[0] for segment in segments], dim=2)


def seen(x: torch.Tensor, segments: Sequence[Segment]) -> list[torch.Tensor]:
    """What each segment sees of x [1, H, T, D]: the parts of others that it begins with, then itself. x is cut once, at
    every bound, so that its gradient is put together once too."""
    cuts = sorted({bound for segment in segments for bound in segment})
    number = {cut: place for place, cut in enumerate(cuts)}
    parts = x.split([end - start for start, end in pairwise(cuts)], dim=2)

    def tokens(start: int, end: int) -> tuple[torch.Tensor, ...]:
        return parts[number[start] : number[end]]

    found = []
    for start, end, *lead in segments:
        line = [*chain.from_iterable(map(tokens, lead[::2], lead[1::2])), *tokens(start, end)]
        found.append(line[0] if len(line) == 1 else torch.cat(line, dim=2))
    return found


def segment(q, k, v, scaling, dropout, window, softcap):  # type: ignore[no-untyped-def]
    """One segment, queries [1, H, L, D] at the end of keys and values [1, K, M, D]: SDPA where it can express the call,
    else the plain formula with `softcap`."""
    length, reach = q.shape[2], k.shape[2]
    mask = None
    if length < reach or (window is not None and window < reach):
        position = torch.arange(reach, device=q.device)
        distance = position[reach - length :, None] - position[None, :]
        mask = (distance >= 0) & (distance < (reach if window is None else window))
    groups = q.shape[1] // k.shape[1]
    native = groups == 1 or (mask is None and softcap is None and shares_keys(q))
    if not native:
        k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
    if softcap is None:
        causal = mask is None and length > 1
        return F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            dropout_p=dropout,
            is_causal=causal,
            scale=scaling,
            enable_gqa=native and groups > 1,
        )
    scores = torch.tanh(q @ k.transpose(2, 3) * scaling / softcap) * softcap
    if mask is None:
        mask = torch.ones(length, length, dtype=torch.bool, device=q.device).tril()
    weights = scores.masked_fill(~mask, float("-inf")).float().softmax(-1).to(q.dtype)
    return F.dropout(weights, dropout) @ v


def shares_keys(q: torch.Tensor) -> bool:
    """Whether SDPA has a fast kernel here for fewer keys than queries; elsewhere it would make the scores whole."""
    return q.device.type == "cpu" or (q.device.type == "cuda" and q.dtype in (torch.bfloat16, torch.float16))


def refuse(module: torch.nn.Module, mask: torch.Tensor | None, others: dict[str, object]) -> None:
    """Raise `Unsupported` for anything that would be lost here: a mask, attention sinks, a position bias."""
    unknown = [name for name, value in others.items() if value is not None and name not in HONOURED]
    if mask is not None:
        unknown.append("attention_mask")
    if not getattr(module, "is_causal", True):
        unknown.append("is_causal=False")
    if unknown:
        raise Unsupported(f"{type(module).__name__} uses {', '.join(unknown)}")


AttentionInterface.register(NAME, packed)
