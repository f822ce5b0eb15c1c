"""Attention over packed sequences: several segments in one row, none of which sees another.

Registered with transformers' attention table, so the models' own forward stays as it is. The segments arrive as the
keyword `segments`, which the models hand on to their attention function untouched.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

NAME = "truetune"

HONOURED = {"sliding_window", "softcap", "position_ids", "use_cache", "is_causal", "output_attentions"}
HONOURED |= {"output_router_logits"}
"""Keywords of an attention call that this function understands or that change nothing in training."""


Segment = tuple[int, int] | tuple[int, int, int, int]
"""(start, end) of a text; (start, end, from, to) of the rest of one whose first tokens stand at [from, to)."""


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
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    parts = [
        segment(
            query[:, :, a:b],
            within(key, a, b, *lead),
            within(value, a, b, *lead),
            scaling,
            dropout,
            sliding_window,
            softcap,
        )
        for a, b, *lead in segments
    ]
    joined = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
    return joined.transpose(1, 2), None


def within(x: torch.Tensor, start: int, end: int, first: int = 0, to: int = 0) -> torch.Tensor:
    """What a segment sees of x [1, H, T, D]: [first, to), then itself."""
    own = x[:, :, start:end]
    return own if first == to else torch.cat((x[:, :, first:to], own), dim=2)


def segment(q, k, v, scaling, dropout, window, softcap):  # type: ignore[no-untyped-def]
    """One segment, queries [1, H, L, D] at the end of keys and values [1, H, M, D]: SDPA where it can express the call,
    else the plain formula with `softcap`."""
    length, seen = q.shape[2], k.shape[2]
    mask = None
    if length < seen or (window is not None and window < seen):
        position = torch.arange(seen, device=q.device)
        distance = position[seen - length :, None] - position[None, :]
        mask = (distance >= 0) & (distance < (seen if window is None else window))
    if softcap is None:
        causal = mask is None and length > 1
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal, scale=scaling
        )
    scores = torch.tanh(q @ k.transpose(2, 3) * scaling / softcap) * softcap
    if mask is None:
        mask = torch.ones(length, length, dtype=torch.bool, device=q.device).tril()
    weights = scores.masked_fill(~mask, float("-inf")).float().softmax(-1).to(q.dtype)
    return F.dropout(weights, dropout) @ v


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
