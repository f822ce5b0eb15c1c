"""What a row's settings do to its logits before anything is drawn: bias, penalties, and tokens that may not come.

Few tokens are touched at once, so this is numpy for every engine: it gets the logits of those tokens and gives others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from truetune.engines.decoder import Constraint, Sampling

Ids = NDArray[np.int64]
Logits = NDArray[np.float32]


@dataclass
class Said:
    """The tokens of a row: its prompt, and how often its answer has which."""

    prompt: Sequence[int] = ()
    answer: Counter[int] = field(default_factory=Counter)
    made: int = 0

    def add(self, token: int) -> None:
        self.answer[token] += 1
        self.made += 1


def touched(sampling: Sampling, said: Said, vocabulary: int) -> Ids:
    """The tokens whose logits change, sorted."""
    parts = [ids(token for token, _ in sampling.bias)]
    if sampling.repetition_penalty != 1:
        parts += [ids(said.prompt), ids(said.answer)]
    if sampling.presence_penalty or sampling.frequency_penalty:
        parts.append(ids(said.answer))
    if said.made < sampling.min_new_tokens:
        parts.append(ids(sampling.stops))
    found: Ids = np.unique(np.concatenate(parts))
    return found[found < vocabulary]


def ids(some: Iterable[int]) -> Ids:
    return np.fromiter(some, np.int64)


def adjusted(logits: Logits, tokens: Ids, sampling: Sampling, said: Said) -> Logits:
    """The logits [N] of tokens [N] as they should be: the bias on top (OpenAI's `logit_bias`), then the penalties, and
    no stop token where it would be too early."""
    values = logits.astype(np.float64)
    for token, bias in sampling.bias:
        values[tokens == token] += bias
    counts = spread(said.answer.keys(), said.answer.values(), tokens)
    repeated = (counts > 0) | np.isin(tokens, ids(said.prompt))
    penalty = np.where(values > 0, 1 / sampling.repetition_penalty, sampling.repetition_penalty)
    values = np.where(repeated, values * penalty, values)
    values -= sampling.presence_penalty * (counts > 0) + sampling.frequency_penalty * counts
    if said.made < sampling.min_new_tokens:
        values[np.isin(tokens, ids(sampling.stops))] = -np.inf
    return values.astype(np.float32)


def spread(keys: Iterable[int], values: Iterable[int], tokens: Ids) -> NDArray[np.int64]:
    """The value of each of these tokens, 0 where it has none."""
    found, known, numbers = np.zeros(len(tokens), np.int64), ids(keys), ids(values)
    at = np.searchsorted(tokens, known)
    inside = at < len(tokens)
    inside[inside] = tokens[at[inside]] == known[inside]
    found[at[inside]] = numbers[inside]
    return found


def forbidden(constraint: Constraint | None, vocabulary: int) -> NDArray[np.bool_] | None:
    """bool [V]: what a row may not say; None where it may say everything, or where nothing would be left."""
    allowed = constraint.allowed() if constraint else None
    if allowed is None or not allowed[:vocabulary].any():
        return None
    found = np.ones(vocabulary, np.bool_)
    found[: len(allowed)] = ~allowed[:vocabulary]
    return found
