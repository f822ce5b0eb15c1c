"""Generation: rows that grow, each with a cache of its own, one forward after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.cache import KVCache

from truetune.engines.mlx.head import Head
from truetune.engines.mlx.walk import Walk

CHUNK = 512
"""Most tokens of a prompt in one forward."""


@dataclass
class Row:
    """A text that grows: what is in the caches, and what has not been read yet."""

    unread: list[int]
    caches: list[Any] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        return len(self.unread) + (self.caches[0].offset if self.caches else 0)


class Core:
    """Runs a model forward over rows."""

    def __init__(self, model: nn.Module, walk: Walk, head: Head) -> None:
        self.model, self.walk, self.head = model, walk, head

    def row(self, ids: Sequence[int]) -> Row:
        return Row([int(token) for token in ids], [KVCache() for _ in self.model.model.layers])

    def read(self, row: Row) -> np.ndarray:
        """Reads what is unread; float32 [V]: the logits after its last token."""
        ids, row.unread = row.unread, []
        for start in range(0, len(ids), CHUNK):
            hidden = self.walk(mx.array([ids[start : start + CHUNK]]), row.caches)
            mx.eval(hidden, [(cache.keys, cache.values) for cache in row.caches])
        return np.array(self.head.logits(hidden[0, -1:]))[0]

    def greedy(self, prompt: Sequence[int], limit: int, stops: frozenset[int]) -> list[int]:
        """A continuation of at most `limit` tokens, through the first stop token."""
        row, answer = self.row(prompt), []
        while len(answer) < limit and not (answer and answer[-1] in stops):
            answer.append(int(self.read(row).argmax()))
            row.unread = answer[-1:]
        return answer
