"""Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290); the formula stands with torch's."""

from __future__ import annotations

import mlx.core as mx

from truetune.engines.mlx.batch import Batch
from truetune.engines.mlx.forward import Forward, sizes
from truetune.engines.mlx.objectives.pairs import preferred, reference, rewards, sides
from truetune.engines.objective import Objective


class Dpo(Objective):
    def loss(self, forward: Forward, batch: Batch, collected: None) -> tuple[mx.array, dict[str, mx.array]]:
        gains = forward.sums(batch) - reference(batch)
        losses = self.losses(gains / sizes(batch) if self.settings.loss == "ipo" else gains)
        return losses.sum(), rewards(gains * self.settings.beta)

    def losses(self, gains: mx.array) -> mx.array:
        """Of each pair, from log π − log π_ref of each text."""
        beta = self.settings.beta
        better, worse = sides(gains)
        margin = better - worse
        if self.settings.loss == "ipo":
            return mx.square(margin - 1 / (2 * beta))
        if self.settings.loss == "hinge":
            return mx.maximum(1 - beta * margin, 0)
        return preferred(beta * margin, self.settings.label_smoothing)
