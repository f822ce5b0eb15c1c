"""A score for answers, learned from pairs of which one is better (Bradley & Terry 1952); the formula stands with
torch's."""

from __future__ import annotations

import mlx.core as mx

from truetune.engines.mlx.batch import Batch
from truetune.engines.mlx.forward import Forward
from truetune.engines.mlx.objectives.pairs import preferred, rewards, sides
from truetune.engines.objective import Objective


class Reward(Objective):
    def loss(self, forward: Forward, batch: Batch, collected: None) -> tuple[mx.array, dict[str, mx.array]]:
        values = forward.scores(batch)[:, 0]
        better, worse = sides(values)
        return preferred(better - worse, 0.0).sum(), rewards(values)
