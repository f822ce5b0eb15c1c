"""From logits to the next token: temperature, then top-k, then top-p, as transformers orders them; then one draw from
the row's own random numbers."""

from __future__ import annotations

import torch

from truetune.engines.decoder import Sampling

HEAD = 512
"""The likeliest tokens that are looked at before a whole vocabulary is sorted for top-p."""


def choose(logits: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """The next token of one row; logits float32 [V]. Greedy draws nothing."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    weights = kept(logits, sampling)
    # Summed in the order of ids: an order by weight would let the last bit of a logit exchange two tokens.
    sums = weights.double().cumsum(0)
    drawn = torch.rand((), dtype=torch.float64, generator=generator).item() * sums[-1]
    place = int(torch.searchsorted(sums, drawn, right=True))
    return min(place, int(weights.nonzero()[-1]))


def kept(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """float32 [V]: the probability of every token that may be drawn (they need not sum to one), 0 for the others."""
    scaled = (logits - logits.max()) / sampling.temperature
    if 0 < sampling.top_k < len(scaled):
        least = scaled.topk(sampling.top_k).values[-1]
        scaled = scaled.masked_fill(scaled < least, float("-inf"))
    weights = scaled.softmax(-1)
    return weights if sampling.top_p >= 1 else nucleus(weights, sampling.top_p)


def nucleus(weights: torch.Tensor, share: float) -> torch.Tensor:
    """The likeliest tokens until they hold `share` of the probability, at least one (Holtzman et al. 2020)."""
    size = min(HEAD, len(weights))
    values, ids = weights.topk(size)
    if size < len(weights) and values.double().sum() < share:
        values, ids = weights.sort(descending=True, stable=True)
    before = values.double().cumsum(0) - values.double()
    inside = before < share
    inside[0] = True
    chosen = ids[inside]
    return torch.zeros_like(weights).index_copy(0, chosen, weights[chosen])
