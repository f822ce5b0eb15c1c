"""Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv 2402.01306): good and bad answers, each by itself.

With r = log π(y) − log π_ref(y) and z = max(0, mean of r over answers beside prompts that are not theirs):

    good answers   desirable_weight · (1 − σ(β (r − z)))
    bad answers    undesirable_weight · (1 − σ(β (z − r)))

z says how far the model has moved from the reference, and takes no part in the gradient. It is estimated over the whole
step, however that is cut (TRL: over each batch of a device). The reward of an answer is β r.
"""

from __future__ import annotations

import torch

from truetune.engines import base
from truetune.engines.objective import Objective
from truetune.engines.torch.batch import Batch
from truetune.engines.torch.forward import Forward
from truetune.engines.torch.objectives.pairs import reference


class Kto(Objective):
    def collect(self, engine: base.TrainEngine, plan: base.Plan) -> float:
        """z, in nats."""
        return base.drift(engine, plan)

    def loss(self, forward: Forward, batch: Batch, collected: float) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        beta, gains = self.settings.beta, forward.sums(batch) - reference(batch)
        good = torch.tensor([example.label == (1,) for example in batch.examples], device=gains.device)
        ahead = torch.where(good, gains - collected, collected - gains)
        weights = torch.where(good, self.settings.desirable_weight, self.settings.undesirable_weight)
        losses = weights * torch.sigmoid(-beta * ahead)
        return losses.sum(), told(beta * gains.detach(), good, ahead.detach(), collected)


def told(values: torch.Tensor, good: torch.Tensor, ahead: torch.Tensor, kl: float) -> dict[str, torch.Tensor]:
    """Sums over the rows; the rewards of each side are divided by how many there are of it."""
    return {
        "reward_chosen/chosen": values[good].sum(),
        "chosen": good.sum().float(),
        "reward_rejected/rejected": values[~good].sum(),
        "rejected": (~good).sum().float(),
        "reward_accuracy": ((ahead > 0).float() + (ahead == 0).float() / 2).sum(),  # a tie is a guess
        "kl": values.new_tensor(kl * len(values)),
    }
