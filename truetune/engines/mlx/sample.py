"""From logits to the next token: bias and penalties, temperature, then top-k, top-p and min-p; then one draw from the
row's own numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from truetune.engines import adjust
from truetune.engines.adjust import Said
from truetune.engines.decoder import Constraint, Sampling, Scored


def adjusted(
    logits: NDArray[np.float32], sampling: Sampling, said: Said, constraint: Constraint | None
) -> NDArray[np.float32]:
    """The logits [V] with what the row's settings and its constraint do to them."""
    tokens = adjust.touched(sampling, said, len(logits))
    no = adjust.forbidden(constraint, len(logits))
    found = logits.copy()
    found[tokens] = adjust.adjusted(logits[tokens], tokens, sampling, said)
    if no is None:
        return found
    found[no] = -np.inf
    # All that the grammar allows may be a stop that would be too early.
    return found if np.isfinite(found).any() else np.where(no, np.float32(-np.inf), logits)


def choose(logits: NDArray[np.float32], sampling: Sampling, generator: np.random.Generator) -> int:
    """The next token of one row; logits float32 [V]. Greedy draws nothing."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    weights = kept(logits.astype(np.float64), sampling)
    # Summed in the order of ids: an order by weight would let the last bit of a logit exchange two tokens.
    sums = weights.cumsum()
    place = int(np.searchsorted(sums, generator.random() * sums[-1], side="right"))
    return min(place, int(weights.nonzero()[0][-1]))


def kept(logits: NDArray[np.float64], sampling: Sampling) -> NDArray[np.float64]:
    """[V]: the weight of every token that may be drawn (they need not sum to one), 0 for the others."""
    scaled = (logits - logits.max()) / sampling.temperature
    if 0 < sampling.top_k < len(scaled):
        least = np.partition(scaled, -sampling.top_k)[-sampling.top_k]
        scaled[scaled < least] = -np.inf
    weights = np.exp(scaled)
    weights = weights if sampling.top_p >= 1 else nucleus(weights, sampling.top_p)
    return np.where(weights < sampling.min_p * weights.max(), 0, weights)


def nucleus(weights: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """The likeliest tokens until they hold `share` of the probability, at least one (Holtzman et al. 2020)."""
    order = np.argsort(-weights, kind="stable")
    before = weights[order].cumsum() - weights[order]
    inside = before < share * weights.sum()
    inside[0] = True
    found = np.zeros_like(weights)
    found[order[inside]] = weights[order[inside]]
    return found


def scored(logits: NDArray[np.float32], tokens: NDArray[np.int64], top: int) -> list[Scored]:
    """Per row of logits [N, V] its token's log-probability, and the likeliest tokens with theirs, from one array."""
    shifted = logits - logits.max(-1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    likely = np.argsort(-logs, axis=-1, kind="stable")[:, :top]
    return [
        Scored(float(row[token]), tuple((int(at), float(row[at])) for at in ids))
        for row, token, ids in zip(logs, tokens, likely, strict=True)
    ]
