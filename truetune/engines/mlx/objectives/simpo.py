"""Simple preference optimisation (Meng et al. 2024, arXiv 2405.14734); the formula stands with torch's."""

from __future__ import annotations

import mlx.core as mx

from truetune.engines.mlx.batch import Batch
from truetune.engines.mlx.forward import Forward, sizes
from truetune.engines.mlx.objectives.pairs import preferred, rewards, sides
from truetune.engines.objective import Objective


class Simpo(Objective):
    def loss(self, forward: Forward, batch: Batch, collected: None) -> tuple[mx.array, dict[str, mx.array]]:
        values = self.settings.beta * forward.sums(batch) / sizes(batch)
        better, worse = sides(values)
        losses = preferred(better - worse - self.settings.margin, self.settings.label_smoothing)
        return losses.sum(), rewards(values)
