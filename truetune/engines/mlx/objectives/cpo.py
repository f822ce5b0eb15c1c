"""Contrastive preference optimisation (Xu et al. 2024, arXiv 2401.08417); the formula stands with torch's."""

from __future__ import annotations

import mlx.core as mx

from truetune.engines.mlx.batch import Batch
from truetune.engines.mlx.forward import Forward, sizes
from truetune.engines.mlx.objectives.pairs import preferred, rewards, sides
from truetune.engines.objective import Objective


class Cpo(Objective):
    def loss(self, forward: Forward, batch: Batch, collected: None) -> tuple[mx.array, dict[str, mx.array]]:
        sums = forward.sums(batch)
        values = self.settings.beta * sums
        better, worse = sides(values)
        learned = -sides(sums / sizes(batch))[0]
        losses = preferred(better - worse, self.settings.label_smoothing) + self.settings.sft_weight * learned
        return losses.sum(), rewards(values) | {"sft_loss": mx.stop_gradient(learned).sum()}
