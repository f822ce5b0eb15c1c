"""What the methods that train no matrices of a layer train, in numbers: virtual tokens, and the factors of IA³."""

from __future__ import annotations

from truetune.models.facts import Facts

LAYERED = ("prefix", "ptuning_v2")
"""Methods whose virtual tokens are keys and values. They live in the cache, which gradient checkpointing switches
off, so that smaller micro-batches take its place."""
METHODS = (*LAYERED, "ptuning", "prompt", "ia3")


def trained(facts: Facts, method: str, virtual: int, encoder: int | None = None) -> int:
    """Number of trained parameters; `encoder` is the width of the network, None for the model's own."""
    hidden, keys, wide = facts.hidden, facts.kv_heads * facts.head_dim, encoder or facts.hidden
    both = facts.layers * 2 * keys
    return {
        "prefix": virtual * keys + keys * wide + wide + wide * both + both,
        "ptuning_v2": virtual * both,
        "ptuning": virtual * hidden + hidden * wide + wide + wide * wide + wide + wide * hidden + hidden,
        "prompt": virtual * hidden,
        "ia3": facts.layers * (2 * keys + facts.intermediate),
    }[method]
