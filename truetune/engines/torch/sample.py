"""From logits to the next token: bias and penalties, temperature, then top-k, top-p and min-p, as transformers orders
them; then one draw from the row's own random numbers."""

from __future__ import annotations

import torch

from truetune.engines import adjust
from truetune.engines.adjust import Said
from truetune.engines.decoder import Constraint, Sampling, Scored

HEAD = 512
"""The likeliest tokens that are looked at before a whole vocabulary is sorted for top-p."""


def adjusted(logits: torch.Tensor, sampling: Sampling, said: Said, constraint: Constraint | None) -> torch.Tensor:
    """The logits [V] with what the row's settings and its constraint do to them."""
    tokens = adjust.touched(sampling, said, len(logits))
    ruled = adjust.forbidden(constraint, len(logits))
    if not len(tokens) and ruled is None:
        return logits
    found = logits.clone()
    if len(tokens):
        at = torch.from_numpy(tokens).to(logits.device)
        found[at] = torch.from_numpy(adjust.adjusted(logits[at].cpu().numpy(), tokens, sampling, said)).to(found)
    if ruled is not None:
        no = torch.from_numpy(ruled).to(logits.device)
        found.masked_fill_(no, float("-inf"))
        if bool(torch.isneginf(found).all()):  # all that the grammar allows is a stop that would be too early
            found = logits.masked_fill(no, float("-inf"))
    return found


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
    weights = weights if sampling.top_p >= 1 else nucleus(weights, sampling.top_p)
    return weights if sampling.min_p <= 0 else weights.masked_fill(weights < sampling.min_p * weights.max(), 0)


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


def scored(logits: torch.Tensor, tokens: torch.Tensor, top: int) -> list[Scored]:
    """Per row of logits [N, V] its token's log-probability, and the likeliest tokens with theirs, from one array."""
    logs = logits - logits.logsumexp(-1, keepdim=True)
    own = logs.gather(-1, tokens[:, None])[:, 0].tolist()
    if not top:
        return [Scored(value) for value in own]
    values, ids = logs.topk(min(top, logits.shape[-1]))
    rows = zip(own, ids.tolist(), values.tolist(), strict=True)
    return [Scored(value, tuple(zip(names, likely, strict=True))) for value, names, likely in rows]
