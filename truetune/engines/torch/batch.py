"""From examples to one micro-batch of tensors: packed (padding-free) or padded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch

from truetune.data.example import Example
from truetune.engines.torch.attention import Segment

SHARED = 16
"""Tokens that two texts must begin with alike to be computed once; below, the second attention costs more."""


@dataclass(frozen=True)
class Batch:
    """One micro-batch. `picked` are flat positions (row · length + t) whose hidden state predicts a supervised token.

    ids        int64 [R, L]     token ids
    positions  int64 [R, L]     position in the example
    mask       int64 [R, L]     1 = real token; None when packed
    segments   of a packed row: (start, end), or (start, end, from, to, …) where each [from, to) is seen before it
    picked     int64 [N]        positions that predict
    wanted     int64 [M]        the same, in order, each once: several texts may be predicted from one
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


Piece = tuple[int, int]
"""Places [from, to) of a packed row."""


@dataclass(frozen=True)
class Text:
    """One of an example's texts: ids int32 [T], weights float32 [T]."""

    ids: np.ndarray
    weights: np.ndarray


def texts(examples: Sequence[Example]) -> list[Text]:
    """The texts of all examples, in order."""
    return [Text(example.ids[part], example.weights[part]) for example in examples for part in example.texts]


def pack(examples: Sequence[Example], device: str) -> Batch:
    """All texts in one row, each its own segment. Where a text begins with at least `SHARED` tokens of an earlier one,
    these stand there once: what follows sees them as if they stood before it. On a GPU, whose kernels take whole texts,
    only the two texts of a pair do so."""
    ids, positions, pieces, segments, at = [], [], list[list[Piece]](), [], 0
    for text, (other, common) in zip(
        texts(examples), beginnings(examples, apart=device.startswith("cuda")), strict=True
    ):
        end = at + len(text.ids) - common
        lead = clipped(pieces[other], common) if common else []
        pieces.append([*lead, (at, end)])
        segments.append((at, end, *chain.from_iterable(lead)))
        ids.append(text.ids[common:])
        positions.append(np.arange(common, len(text.ids)))
        at = end
    row = (np.concatenate(ids)[None], np.concatenate(positions)[None], None)
    places = [np.concatenate([np.arange(*piece) for piece in each]) for each in pieces]
    return tensors(examples, *row, places, tuple(segments), device)


def beginnings(examples: Sequence[Example], *, apart: bool = False) -> list[tuple[int, int]]:
    """Of each text the earlier one that begins most like it, and how many tokens both begin with, fewer than it has; 0
    where they are fewer than `SHARED`. `apart`: only texts of one example are compared."""
    found, alike, every = [], dict[tuple[int, bytes], list[int]](), texts(examples)
    owners = [number for number, example in enumerate(examples) for _ in example.texts]
    for number, (text, owner) in enumerate(zip(every, owners, strict=True)):
        others = alike.setdefault((owner if apart else 0, text.ids[:SHARED].tobytes()), [])
        sizes = [common(every[other].ids, text.ids) for other in others]
        most = max(sizes, default=0)
        found.append((others[sizes.index(most)], most) if most >= SHARED else (0, 0))
        others.append(number)
    return found


def common(one: np.ndarray, other: np.ndarray) -> int:
    """How many tokens both begin with, fewer than the other has."""
    size = min(len(one), len(other) - 1)
    differ = one[:size] != other[:size]
    return int(differ.argmax()) if differ.any() else size


def clipped(pieces: Sequence[Piece], count: int) -> list[Piece]:
    """The first `count` places of [from, to) one behind the other."""
    found = []
    for start, end in pieces:
        size = min(end - start, count)
        if size > 0:
            found.append((start, start + size))
        count -= size
    return found


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
