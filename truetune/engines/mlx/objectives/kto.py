"""Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv 2402.01306); the formula stands with torch's."""

from __future__ import annotations

import mlx.core as mx

from truetune.engines import base
from truetune.engines.mlx.batch import Batch
from truetune.engines.mlx.forward import Forward
from truetune.engines.mlx.objectives.pairs import reference
from truetune.engines.objective import Objective


class Kto(Objective):
    def collect(self, engine: base.TrainEngine, plan: base.Plan) -> float:
        """z, in nats."""
        return base.drift(engine, plan)

    def loss(self, forward: Forward, batch: Batch, collected: float) -> tuple[mx.array, dict[str, mx.array]]:
        beta, gains = self.settings.beta, forward.sums(batch) - reference(batch)
        good = mx.array([example.label == (1,) for example in batch.examples])
        ahead = mx.where(good, gains - collected, collected - gains)
        weights = mx.where(good, self.settings.desirable_weight, self.settings.undesirable_weight)
        losses = weights * mx.sigmoid(-beta * ahead)
        return losses.sum(), told(mx.stop_gradient(beta * gains), good, mx.stop_gradient(ahead), collected)


def told(values: mx.array, good: mx.array, ahead: mx.array, kl: float) -> dict[str, mx.array]:
    """Sums over the rows; the rewards of each side are divided by how many there are of it."""
    return {
        "reward_chosen/chosen": mx.where(good, values, 0).sum(),
        "chosen": good.astype(mx.float32).sum(),
        "reward_rejected/rejected": mx.where(good, 0, values).sum(),
        "rejected": (~good).astype(mx.float32).sum(),
        "reward_accuracy": mx.where(ahead == 0, 0.5, (ahead > 0).astype(mx.float32)).sum(),  # a tie is a guess
        "kl": mx.array(kl * len(values)),
    }
