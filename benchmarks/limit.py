"""The machine's matrix-product limit at a model's own shapes: seconds that the products of a step take by themselves.

    python benchmarks/limit.py SHAPE TOKENS

What counts: for each frozen layer that carries an adapter one product forward and one for the input's gradient, which
is 4 FLOP per parameter and token; for the output head the same at supervised positions only, given as a second
figure. What does not: the adapter's own products, attention, everything element-wise, the optimizer. Each product is
measured `ROUNDS` times with its operands in memory and its result written into a kept buffer; the best time counts.
"""

from __future__ import annotations

import json
import sys
import time

ROUNDS = 5
HEAD = 256
"""Positions of one product with the head: large enough to be fast, small enough for a vocabulary of 150,000."""


def product(rows: int, inside: int, outside: int) -> float:
    """Best seconds of x [rows, inside] Wᵀ and of grad [rows, outside] W together."""
    import torch

    x, weight = torch.randn(rows, inside), torch.randn(outside, inside)
    forward, backward = torch.empty(rows, outside), torch.empty(rows, inside)
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.perf_counter()
        torch.mm(x, weight.t(), out=forward)
        torch.mm(forward, weight, out=backward)
        best = min(best, time.perf_counter() - started)
    return best


def measure(name: str, tokens: int) -> dict[str, float]:
    """Seconds per token through the layers, seconds per supervised token through the head, and the rates."""
    from shapes import SHAPES

    shape = SHAPES[name]
    layers = sum(product(tokens, inside, outside) * count for (outside, inside), count in shape.linears.items())
    head = product(HEAD, shape.hidden, shape.vocabulary)
    return {
        "tokens": tokens,
        "layer_seconds_per_token": layers / tokens,
        "head_seconds_per_token": head / HEAD,
        "layer_gflops": 4 * shape.frozen * tokens / layers / 1e9,
        "head_gflops": 4 * shape.hidden * shape.vocabulary * HEAD / head / 1e9,
    }


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
