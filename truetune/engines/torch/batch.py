"""From examples to one micro-batch of tensors: packed (padding-free) or padded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from truetune.data.example import Example


@dataclass(frozen=True)
class Batch:
    """One micro-batch. `picked` are flat positions (row · length + t) whose hidden state predicts a supervised token.

    ids        int64 [R, L]     token ids
    positions  int64 [R, L]     position in the example
    mask       int64 [R, L]     1 = real token; None when packed
    segments   ((start, end), …) of a packed row
    picked     int64 [N]        positions that predict
    targets    int64 [N]        the tokens they predict
    weights    float32 [N]      weight × scale of each loss
    """

    ids: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor | None
    segments: tuple[tuple[int, int], ...]
    picked: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor

    @property
    def supervised(self) -> int:
        """Tokens that reach the loss, counted from the tensors that are given to it."""
        return int(self.targets.shape[0])


def pack(examples: Sequence[Example], scale: float, device: str) -> Batch:
    """All examples in one row, each its own segment."""
    ends = np.cumsum([example.tokens for example in examples])
    starts = ends - [example.tokens for example in examples]
    ids = np.concatenate([example.ids for example in examples])[None]
    positions = np.concatenate([np.arange(example.tokens) for example in examples])[None]
    segments = tuple((int(a), int(b)) for a, b in zip(starts, ends, strict=True))
    return tensors(examples, ids, positions, None, starts, segments, scale, device)


def pad(examples: Sequence[Example], scale: float, device: str) -> Batch:
    """One row per example, padded on the right to the longest."""
    length = max(example.tokens for example in examples)
    ids = np.zeros((len(examples), length), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, example in enumerate(examples):
        ids[row, : example.tokens] = example.ids
        mask[row, : example.tokens] = 1
    positions = np.broadcast_to(np.arange(length), ids.shape) * mask
    starts = np.arange(len(examples)) * length
    return tensors(examples, ids, positions, mask, starts, (), scale, device)


def tensors(examples, ids, positions, mask, starts, segments, scale, device):  # type: ignore[no-untyped-def]
    """Put the arrays on the device, and find what is supervised: token t is predicted from position t − 1."""
    supervised = [np.flatnonzero(example.weights) for example in examples]
    picked = np.concatenate([start + at - 1 for start, at in zip(starts, supervised, strict=True)])
    targets = np.concatenate([example.ids[at] for example, at in zip(examples, supervised, strict=True)])
    weights = np.concatenate([example.weights[at] for example, at in zip(examples, supervised, strict=True)])

    def put(array: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
        return torch.as_tensor(np.ascontiguousarray(array), dtype=dtype).to(device)

    return Batch(
        put(ids, torch.int64),
        put(positions, torch.int64),
        None if mask is None else put(mask, torch.int64),
        segments,
        put(picked, torch.int64),
        put(targets, torch.int64),
        put(weights * np.float32(scale), torch.float32),
    )
