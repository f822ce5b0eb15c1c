"""How far an export may lie from what was trained, by the number type that it stores. The docs and every report state
these."""

from __future__ import annotations

from dataclasses import dataclass

TOLERANCE = 1e-4
"""Of log-probabilities in float32, in nats up to one nat, beyond that as a share: another order of sums explains it."""
TABLE = 5e-3
"""As `TOLERANCE`, of llama.cpp for models with GELU, which it looks up in a table of float16."""
TIE = 1e-3
"""Nats between the two likeliest tokens below which either of them may be the greedy one."""
DECIDED = 0.5
"""Nats by which the likeliest token leads where rounding should not change which one it is."""
GREEDY = 32
"""Tokens of a greedy answer that must be the same."""


@dataclass(frozen=True)
class Bound:
    """`kl`: mean Kullback–Leibler divergence of the next token's distribution from the trained one, in nats; `top1`:
    share of places where the likeliest token leads by `DECIDED` and stays the likeliest."""

    kl: float
    top1: float


HALF, EIGHT, SIX, FIVE, FOUR, THREE, TWO = (
    Bound(0.01, 0.95),
    Bound(0.02, 0.9),
    Bound(0.05, 0.85),
    Bound(0.1, 0.8),
    Bound(0.25, 0.7),
    Bound(0.5, 0.6),
    Bound(1.0, 0.4),
)
"""By bits of a weight: 16, 8, 6, 5, 4, 3, 2."""

BOUNDS = {
    "float16": HALF,
    "bfloat16": HALF,
    "8bit": EIGHT,
    "4bit": FOUR,
    "f16": HALF,
    "bf16": HALF,
    "q8_0": EIGHT,
    "q6_k": SIX,
    "q5_k_m": FIVE,
    "q5_k_s": FIVE,
    "q5_0": FIVE,
    "q5_1": FIVE,
    "q4_k_m": FOUR,
    "q4_k_s": FOUR,
    "q4_0": FOUR,
    "q4_1": FOUR,
    "iq4_nl": FOUR,
    "q3_k_m": THREE,
    "q2_k": TWO,
}
"""Number type -> what may be lost by storing it."""
