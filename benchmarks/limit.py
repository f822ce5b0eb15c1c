"""The machine's matrix-product limit at a model's own shapes: seconds that the products of a step take by themselves.

    python benchmarks/limit.py SHAPE TOKENS

What counts: for each frozen layer that carries an adapter one product forward and one for the input's gradient, which
is 4 FLOP per parameter and token; for the output head the same at supervised positions only, given as a second
figure. What does not: the adapter's own products, attention, everything element-wise, the optimizer. Each product is
measured `ROUNDS` times by each library that torch has; the best time counts.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

ROUNDS = 5
HEAD = (96, 160, 256)
"""Positions of one product with the head, the fastest of which counts: small enough for a vocabulary of 150,000."""


def product(rows: int, inside: int, outside: int) -> float:
    """Best seconds of x [rows, inside] Wᵀ and of grad [rows, outside] W together, each by the faster library."""
    import torch

    x, weight, grad = torch.randn(rows, inside), torch.randn(outside, inside), torch.randn(rows, outside)
    return fastest(x, weight) + fastest(grad, weight.t())


def fastest(x: torch.Tensor, W: torch.Tensor) -> float:
    """Best seconds of x Wᵀ, by MKL into a kept place or by oneDNN where this torch has it."""
    import torch

    place = x.new_empty(len(x), len(W))
    ways = [lambda: torch.mm(x, W.t(), out=place)]
    if torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        ways.append(lambda: torch.ops.mkldnn._linear_pointwise(x, W, None, "none", [], ""))
    best = float("inf")
    for way in ways:
        for _ in range(ROUNDS):
            started = time.perf_counter()
            way()
            best = min(best, time.perf_counter() - started)
    return best


def measure(name: str, tokens: int) -> dict[str, float]:
    """Seconds per token through the layers, seconds per supervised token through the head, and the rates."""
    from shapes import SHAPES

    shape = SHAPES[name]
    layers = sum(product(tokens, inside, outside) * count for (outside, inside), count in shape.linears.items())
    head = min(product(rows, shape.hidden, shape.vocabulary) / rows for rows in HEAD)
    return {
        "tokens": tokens,
        "layer_seconds_per_token": layers / tokens,
        "head_seconds_per_token": head,
        "layer_gflops": 4 * shape.frozen * tokens / layers / 1e9,
        "head_gflops": 4 * shape.hidden * shape.vocabulary / head / 1e9,
    }


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
