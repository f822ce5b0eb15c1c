"""From logits to the next token: temperature, then top-k, then top-p; then one draw from the row's own numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from truetune.engines.decoder import Sampling


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
    return weights if sampling.top_p >= 1 else nucleus(weights, sampling.top_p)


def nucleus(weights: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """The likeliest tokens until they hold `share` of the probability, at least one (Holtzman et al. 2020)."""
    order = np.argsort(-weights, kind="stable")
    before = weights[order].cumsum() - weights[order]
    inside = before < share * weights.sum()
    inside[0] = True
    found = np.zeros_like(weights)
    found[order[inside]] = weights[order[inside]]
    return found
