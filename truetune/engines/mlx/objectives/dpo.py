"""Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290); its losses stand with torch's."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from truetune.engines import base
from truetune.engines.mlx.batch import Batch
from truetune.engines.mlx.forward import Forward, sizes


class Dpo:
    def __init__(self, settings: base.Objective) -> None:
        self.settings = settings

    def collect(self, engine: base.TrainEngine, plan: base.Plan) -> None:
        return None

    def loss(self, forward: Forward, batch: Batch, collected: None) -> tuple[mx.array, dict[str, mx.array]]:
        gains = forward.sums(batch) - reference(batch)
        losses = self.losses(gains / sizes(batch) if self.settings.loss == "ipo" else gains)
        return losses.sum(), rewards(gains * self.settings.beta)

    def losses(self, gains: mx.array) -> mx.array:
        """Of each pair, from log π − log π_ref of each text."""
        beta, smoothing = self.settings.beta, self.settings.label_smoothing
        better, worse = sides(gains)
        margin = better - worse
        if self.settings.loss == "ipo":
            return mx.square(margin - 1 / (2 * beta))
        if self.settings.loss == "hinge":
            return nn.relu(1 - beta * margin)
        return -nn.log_sigmoid(beta * margin) * (1 - smoothing) - nn.log_sigmoid(-beta * margin) * smoothing


def reference(batch: Batch) -> mx.array:
    """log π_ref of each text, float32 [texts]."""
    return mx.array([value for example in batch.examples for value in example.reference], dtype=mx.float32)


def sides(values: mx.array) -> tuple[mx.array, mx.array]:
    """Of the better and of the worse answers, from those of all texts."""
    return values[0::2], values[1::2]


def rewards(values: mx.array) -> dict[str, mx.array]:
    """Sums over the pairs of what the texts' rewards come to."""
    better, worse = sides(mx.stop_gradient(values))
    return {
        "reward_chosen": better.sum(),
        "reward_rejected": worse.sum(),
        "reward_margin": (better - worse).sum(),
        "reward_accuracy": (better > worse).astype(mx.float32).sum(),
    }
