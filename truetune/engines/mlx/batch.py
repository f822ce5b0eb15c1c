"""From examples to micro-batches of arrays: texts of like length, padded on the right to the longest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from truetune.data.example import Example

EACH = 96
"""What one more micro-batch costs beside its tokens, in tokens: measured on a CPU (24 was slower by an eighth)."""


@dataclass(frozen=True)
class Batch:
    """One micro-batch. `picked` are flat positions (row · length + t) whose hidden state predicts a supervised token.

    ids        int32 [R, L]    token ids of the texts; what is padded stands behind, where nothing sees it
    picked     int32 [N]       positions that predict
    targets    int32 [N]       the tokens they predict
    weights    float32 [N]     weight of each loss
    owners     int32 [N]       the text, which is the row, that each target is of
    """

    ids: mx.array
    picked: mx.array
    targets: mx.array
    weights: mx.array
    owners: mx.array
    examples: Sequence[Example]

    @property
    def supervised(self) -> int:
        """Tokens that reach the loss, counted from the arrays that are given to it; labels where no token does."""
        return int(self.targets.shape[0]) or len(self.examples)


def batch(examples: Sequence[Example]) -> Batch:
    """The texts as rows, and what is supervised in them: token t is predicted from position t − 1."""
    texts = [(example.ids[part], example.weights[part]) for example in examples for part in example.texts]
    length = max(len(ids) for ids, _ in texts)
    padded = np.zeros((len(texts), length), dtype=np.int32)
    picked, targets, weights, owners = [], [], [], []
    for row, (ids, weight) in enumerate(texts):
        padded[row, : len(ids)] = ids
        at = np.flatnonzero(weight)
        picked.append(row * length + at - 1)
        targets.append(ids[at])
        weights.append(weight[at])
        owners.append(np.full(len(at), row))
    whole = [np.concatenate(parts).astype(np.int32) for parts in (picked, targets, owners)]
    weighed = mx.array(np.concatenate(weights).astype(np.float32))
    return Batch(mx.array(padded), mx.array(whole[0]), mx.array(whole[1]), weighed, mx.array(whole[2]), examples)


def size(example: Example) -> int:
    """Tokens of an example's texts, all padded to the longest of them."""
    return len(example.texts) * max(part.stop - part.start for part in example.texts)


def cut(lengths: Sequence[int], budget: int) -> list[tuple[int, ...]]:
    """Micro-batches of neighbours by length: the ones whose padded tokens, and number, cost least in sum.

    A micro-batch holds at most `budget` tokens with its padding; a longer example goes alone.

    >>> cut([5, 3, 9, 2], 12) -> [(2,), (0,), (1, 3)]
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    best, back = [0.0] + [float("inf")] * len(order), [0] * (len(order) + 1)
    for start, index in enumerate(order):
        widest = lengths[index]
        for end in range(start + 1, min(len(order), start + max(1, budget // widest)) + 1):
            cost = best[start] + widest * (end - start) + EACH
            if cost < best[end]:
                best[end], back[end] = cost, start
    parts, end = [], len(order)
    while end:
        parts.append(tuple(order[back[end] : end]))
        end = back[end]
    return parts[::-1]
