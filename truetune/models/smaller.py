"""A model of the same build with fewer parameters, and how a number of parameters is said."""

from __future__ import annotations

from dataclasses import replace

from truetune.models.facts import Facts


def scaled(facts: Facts, scale: float) -> Facts:
    """Widths and layers times `scale`, at least 1; embeddings shrink with the width."""
    small = replace(
        facts,
        hidden=max(1, int(facts.hidden * scale)),
        layers=max(1, int(facts.layers * scale)),
        head_dim=max(1, int(facts.head_dim * scale)),
        intermediate=max(1, int(facts.intermediate * scale)),
    )
    rest = max(0, facts.parameters - facts.layers * facts.layer_parameters)
    return replace(small, parameters=int(rest * scale) + small.layers * small.layer_parameters)


def counted(number: int) -> str:
    """`1.2 billion`, `560 million`, `9,900`: two or three digits, rounded down."""
    for size, word in ((10**9, "billion"), (10**6, "million")):
        if number >= size:
            tenths = number * 10 // size
            return f"{tenths // 10} {word}" if tenths >= 100 else f"{tenths / 10:g} {word}"
    return f"{number // 10_000 * 10_000:,}" if number >= 10_000 else f"{number:,}"
