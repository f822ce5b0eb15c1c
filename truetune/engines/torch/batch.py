"""From examples to one micro-batch of tensors: packed (padding-free) or padded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from truetune.data.example import Example
from truetune.engines.torch.attention import Segment

SHARED = 16
"""Tokens that both texts of a pair must begin with to be computed once; below, the second attention costs more."""


@dataclass(frozen=True)
class Batch:
    """One micro-batch. `picked` are flat positions (row · length + t) whose hidden state predicts a supervised token.

    ids        int64 [R, L]     token ids
    positions  int64 [R, L]     position in the example
    mask       int64 [R, L]     1 = real token; None when packed
    segments   of a packed row: (start, end), or (start, end, from, to) where [from, to) is seen before it
    picked     int64 [N]        positions that predict
    wanted     int64 [M]        the same, in order, each once: both texts of a pair may be predicted from one
    targets    int64 [N]        the tokens they predict
    weights    float32 [N]      weight of each loss
    owners     int64 [N]        the text that each target is of; texts count over all examples
    """

    ids: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor | None
    segments: tuple[Segment, ...]
    picked: torch.Tensor
    wanted: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    owners: torch.Tensor
    texts: int
    examples: Sequence[Example]

    @property
    def supervised(self) -> int:
        """Tokens that reach the loss, counted from the tensors that are given to it; labels where no token does."""
        return int(self.targets.shape[0]) or len(self.examples)


@dataclass(frozen=True)
class Text:
    """One of an example's texts: ids int32 [T], weights float32 [T]."""

    ids: np.ndarray
    weights: np.ndarray


def texts(examples: Sequence[Example]) -> list[Text]:
    """The texts of all examples, in order."""
    return [Text(example.ids[part], example.weights[part]) for example in examples for part in example.texts]


def pack(examples: Sequence[Example], device: str) -> Batch:
    """All texts in one row, each its own segment. Where both texts of a pair begin with at least `SHARED` equal tokens,
    these stand there once: what follows in the second text sees them as if they stood before it."""
    ids, positions, places, segments, at = [], [], [], [], 0
    for example in examples:
        for part, common in zip(example.texts, (0, beginning(example)), strict=False):
            text = example.ids[part]
            first = segments[-1][0] if common else at
            ids.append(text[common:])
            positions.append(np.arange(common, len(text)))
            places.append(np.concatenate((np.arange(first, first + common), np.arange(len(text) - common) + at)))
            end = at + len(text) - common
            segments.append((at, end, first, first + common) if common else (at, end))
            at = end
    row = (np.concatenate(ids)[None], np.concatenate(positions)[None], None)
    return tensors(examples, *row, places, tuple(segments), device)


def beginning(example: Example) -> int:
    """How many tokens both texts of a pair begin with, less than either has; 0 where they are fewer than `SHARED`."""
    one, other = (example.ids[part] for part in example.texts) if example.second else ([], [])
    size = min(len(one), len(other)) - 1
    if size < SHARED:
        return 0
    differ = np.flatnonzero(one[:size] != other[:size])
    common = int(differ[0]) if len(differ) else size
    return common if common >= SHARED else 0


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
    places = [np.arange(len(text.ids)) + row * length for row, text in enumerate(parts)]
    return tensors(examples, ids, positions, mask, places, (), device)


def tensors(examples, ids, positions, mask, places, segments, device):  # type: ignore[no-untyped-def]
    """Put the arrays on the device, and find what is supervised: token t of a text is predicted from its token t − 1.
    `places` are the flat positions of each text's tokens."""
    parts = texts(examples)
    supervised = [np.flatnonzero(text.weights) for text in parts]
    picked = np.concatenate([place[at - 1] for place, at in zip(places, supervised, strict=True)])
    targets = np.concatenate([text.ids[at] for text, at in zip(parts, supervised, strict=True)])
    weights = np.concatenate([text.weights[at] for text, at in zip(parts, supervised, strict=True)])
    owners = np.repeat(np.arange(len(parts)), [len(at) for at in supervised])

    def put(array: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
        tensor = torch.as_tensor(np.ascontiguousarray(array), dtype=dtype)
        if device.startswith("cuda"):
            tensor = tensor.pin_memory()  # else the copy would wait for all that the GPU has still to do
        return tensor.to(device, non_blocking=True)

    return Batch(
        put(ids, torch.int64),
        put(positions, torch.int64),
        None if mask is None else put(mask, torch.int64),
        segments,
        put(picked, torch.int64),
        put(np.unique(picked), torch.int64),
        put(targets, torch.int64),
        put(weights, torch.float32),
        put(owners, torch.int64),
        len(parts),
        examples,
    )
