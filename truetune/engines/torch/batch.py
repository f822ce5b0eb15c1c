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
    weights    float32 [N]      weight of each loss
    owners     int64 [N]        the text that each target is of; texts count over all examples
    """

    ids: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor | None
    segments: tuple[tuple[int, int], ...]
    picked: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    owners: torch.Tensor
    texts: int
    examples: Sequence[Example]

    @property
    def supervised(self) -> int:
        """Tokens that reach the loss, counted from the tensors that are given to it."""
        return int(self.targets.shape[0])


@dataclass(frozen=True)
class Text:
    """One of an example's texts: ids int32 [T], weights float32 [T]."""

    ids: np.ndarray
    weights: np.ndarray


def texts(examples: Sequence[Example]) -> list[Text]:
    """The texts of all examples, in order."""
    return [Text(example.ids[part], example.weights[part]) for example in examples for part in example.texts]


def pack(examples: Sequence[Example], device: str) -> Batch:
    """All texts in one row, each its own segment."""
    parts = texts(examples)
    ends = np.cumsum([len(text.ids) for text in parts])
    starts = ends - [len(text.ids) for text in parts]
    ids = np.concatenate([text.ids for text in parts])[None]
    positions = np.concatenate([np.arange(len(text.ids)) for text in parts])[None]
    segments = tuple((int(a), int(b)) for a, b in zip(starts, ends, strict=True))
    return tensors(examples, parts, ids, positions, None, starts, segments, device)


def pad(examples: Sequence[Example], device: str) -> Batch:
    """One row per text, padded on the right to the longest."""
    parts = texts(examples)
    length = max(len(text.ids) for text in parts)
    ids = np.zeros((len(parts), length), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, text in enumerate(parts):
        ids[row, : len(text.ids)] = text.ids
        mask[row, : len(text.ids)] = 1
    positions = np.broadcast_to(np.arange(length), ids.shape) * mask
    starts = np.arange(len(parts)) * length
    return tensors(examples, parts, ids, positions, mask, starts, (), device)


def tensors(examples, parts, ids, positions, mask, starts, segments, device):  # type: ignore[no-untyped-def]
    """Put the arrays on the device, and find what is supervised: token t is predicted from position t − 1."""
    supervised = [np.flatnonzero(text.weights) for text in parts]
    picked = np.concatenate([start + at - 1 for start, at in zip(starts, supervised, strict=True)])
    targets = np.concatenate([text.ids[at] for text, at in zip(parts, supervised, strict=True)])
    weights = np.concatenate([text.weights[at] for text, at in zip(parts, supervised, strict=True)])
    owners = np.repeat(np.arange(len(parts)), [len(at) for at in supervised])

    def put(array: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
        return torch.as_tensor(np.ascontiguousarray(array), dtype=dtype).to(device)

    return Batch(
        put(ids, torch.int64),
        put(positions, torch.int64),
        None if mask is None else put(mask, torch.int64),
        segments,
        put(picked, torch.int64),
        put(targets, torch.int64),
        put(weights, torch.float32),
        put(owners, torch.int64),
        len(parts),
        examples,
    )
