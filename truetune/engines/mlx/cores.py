"""Generation: rows that grow, each with a cache of its own, one forward after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.cache import KVCache

from truetune.engines.decoder import Scored
from truetune.engines.mlx import sample
from truetune.engines.mlx.head import Head
from truetune.engines.mlx.walk import Walk

CHUNK = 512
"""Most tokens of a prompt in one forward."""


@dataclass(eq=False)
class Row:
    """A text that grows: what is in the caches, and what has not been read yet; then `logits` [V] follow."""

    unread: list[int]
    caches: list[Any] = field(default_factory=list)
    top: int | None = None
    """How many of the likeliest tokens are wanted for each place of the prompt; None = no scores at all."""
    scored: list[Scored | None] = field(default_factory=list)
    logits: np.ndarray | None = None
    parts: int = 0
    """Forwards that it has had."""
    begun: bool = False
    """Whether the prompt has been read."""

    @property
    def tokens(self) -> int:
        return len(self.unread) + (self.caches[0].offset if self.caches else 0)

    def twin(self) -> Row:
        """Another row that goes on from here."""
        caches = [copied(cache) for cache in self.caches]
        return replace(self, unread=[*self.unread], caches=caches, scored=[*self.scored])


def copied(cache: KVCache) -> KVCache:
    """A cache of its own. Writing into an array writes into every name of it, so these get arrays of their own."""
    twin = KVCache()
    twin.keys, twin.values, twin.offset = mx.array(cache.keys), mx.array(cache.values), cache.offset
    return twin


class Core:
    """Runs a model forward over rows."""

    def __init__(self, model: nn.Module, walk: Walk, head: Head) -> None:
        self.model, self.walk, self.head = model, walk, head

    def row(self, ids: Sequence[int], top: int | None = None) -> Row:
        caches = [KVCache() for _ in self.model.model.layers]
        return Row([int(token) for token in ids], caches, top, [] if top is None else [None])

    def read(self, row: Row, chunk: int = CHUNK, part: bool = False) -> np.ndarray | None:
        """Reads what is unread, or the next part of it; float32 [V] where it is read to its end: the logits after its
        last token."""
        while row.unread:
            ids, targets = row.unread[:chunk], row.unread[1 : chunk + 1]
            hidden = self.walk(mx.array([ids]), row.caches)
            mx.eval(hidden, [(cache.keys, cache.values) for cache in row.caches])
            if row.top is not None and targets and not row.begun:
                logits = np.array(self.head.logits(hidden[0, : len(targets)]))
                row.scored += sample.scored(logits, np.array(targets), row.top)
            if len(ids) == len(row.unread):
                row.logits, row.begun = np.array(self.head.logits(hidden[0, -1:]))[0], True
            del row.unread[: len(ids)]
            row.parts += 1
            if part:
                break
        return None if row.unread else row.logits

    def greedy(self, prompt: Sequence[int], limit: int, stops: frozenset[int]) -> list[int]:
        """A continuation of at most `limit` tokens, through the first stop token."""
        row, answer = self.row(prompt), []
        while len(answer) < limit and not (answer and answer[-1] in stops):
            answer.append(int(self.read(row).argmax()))
            row.unread = answer[-1:]
        return answer
