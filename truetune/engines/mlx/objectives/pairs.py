"""What objectives over better and worse answers have in common. Texts of a batch alternate: better, worse, better, …"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from truetune.engines.mlx.batch import Batch


def reference(batch: Batch) -> mx.array:
    """log π_ref of each text, float32 [texts]."""
    return mx.array([value for example in batch.examples for value in example.reference], dtype=mx.float32)


def sides(values: mx.array) -> tuple[mx.array, mx.array]:
    """Of the better and of the worse answers, from those of all texts."""
    return values[0::2], values[1::2]


def preferred(margin: mx.array, smoothing: float) -> mx.array:
    """−log σ(margin), where a share `smoothing` of the pairs is taken to be the wrong way round (Mitchell 2023)."""
    return -nn.log_sigmoid(margin) * (1 - smoothing) - nn.log_sigmoid(-margin) * smoothing


def rewards(values: mx.array) -> dict[str, mx.array]:
    """Sums over the pairs of what the texts' rewards come to."""
    better, worse = sides(mx.stop_gradient(values))
    apart = mx.where(better == worse, 0.5, (better > worse).astype(mx.float32))  # a tie is a guess
    return {
        "reward_chosen": better.sum(),
        "reward_rejected": worse.sum(),
        "reward_margin": (better - worse).sum(),
        "reward_accuracy": apart.sum(),
    }
