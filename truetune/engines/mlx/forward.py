"""From a micro-batch to what the model thinks of it. The head for words sees supervised positions only, in chunks; that
for scores the last of each text."""

from __future__ import annotations

import mlx.core as mx

from truetune.engines.mlx import head, pooled
from truetune.engines.mlx.batch import Batch
from truetune.engines.mlx.head import Head
from truetune.engines.mlx.walk import Walk


class Forward:
    """What objectives are made of."""

    def __init__(self, walk: Walk, projection: Head, width: int) -> None:
        self.walk, self.head, self.width = walk, projection, width
        self.token_loss = head.loss(projection.softcap)

    def loss(self, batch: Batch) -> mx.array:
        """Σ −weight · log p over the supervised tokens."""
        return self.token_loss(self.hidden(batch), self.head.weight, batch.targets, batch.weights)

    def logps(self, batch: Batch) -> mx.array:
        """log p of each supervised token, float32 [N]."""
        return head.logps(self.hidden(batch), self.head.weight, batch.targets, self.head.softcap)

    def sums(self, batch: Batch) -> mx.array:
        """Σ weight · log p of each text, float32 [texts]."""
        return per_text(self.logps(batch) * batch.weights, batch)

    def scores(self, batch: Batch) -> mx.array:
        """Of a model whose head gives scores: those of each text, float32 [texts, classes]."""
        return pooled.of(self.walk(batch.ids), self.head.weight, batch)

    def hidden(self, batch: Batch) -> mx.array:
        """Hidden states at the picked positions, [N, H]."""
        return self.walk(batch.ids).reshape(-1, self.width)[batch.picked]


def per_text(values: mx.array, batch: Batch) -> mx.array:
    """Values of supervised tokens [N], summed over each text: [texts]."""
    return mx.zeros(batch.ids.shape[0]).at[batch.owners].add(values)


def sizes(batch: Batch) -> mx.array:
    """Σ weight of each text, float32 [texts]."""
    return per_text(batch.weights, batch)
