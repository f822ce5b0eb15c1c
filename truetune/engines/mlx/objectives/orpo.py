"""Odds ratio preference optimisation (Hong et al. 2024, arXiv 2403.07691); the formula stands with torch's."""

from __future__ import annotations

import math

import mlx.core as mx

from truetune.engines.mlx.batch import Batch
from truetune.engines.mlx.forward import Forward, sizes
from truetune.engines.mlx.objectives.pairs import preferred, rewards, sides
from truetune.engines.objective import Objective

CERTAIN = -1e-6
"""Highest log p whose odds are computed: those of a certain answer are infinite."""


class Orpo(Objective):
    def loss(self, forward: Forward, batch: Batch, collected: None) -> tuple[mx.array, dict[str, mx.array]]:
        means = forward.sums(batch) / sizes(batch)
        better, worse = sides(odds(means))
        learned = -sides(means)[0]
        losses = self.settings.sft_weight * learned + self.settings.beta * preferred(better - worse, 0.0)
        return losses.sum(), rewards(means * self.settings.beta) | {"sft_loss": mx.stop_gradient(learned).sum()}


def odds(logs: mx.array) -> mx.array:
    """log(p / (1 − p)) from log p; each way of computing log(1 − p) is exact where the other is not."""
    logs = mx.minimum(logs, CERTAIN)
    likely = logs > -math.log(2)
    rest = mx.where(likely, mx.log(-mx.expm1(mx.where(likely, logs, -1.0))), mx.log1p(-mx.exp(logs)))
    return logs - rest
