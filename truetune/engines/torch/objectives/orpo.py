"""Odds ratio preference optimisation (Hong et al. 2024, arXiv 2403.07691), without a reference model.

With p = exp(log π(y) / tokens of y), for the better answer y+ and the worse y−:

    sft_weight · −log p(y+)  +  β · −log σ(log odds(y+) − log odds(y−))        odds = p / (1 − p)

β is the paper's λ. The first term is a mean over the answer's tokens, each pair counting the same. (TRL's takes the
prompt's tokens in, and the mean over all tokens of a batch.) The reward of an answer is β log p.
"""

from __future__ import annotations

import math

import torch

from truetune.engines.objective import Objective
from truetune.engines.torch.batch import Batch
from truetune.engines.torch.forward import Forward, sizes
from truetune.engines.torch.objectives.pairs import preferred, rewards, sides

CERTAIN = -1e-6
"""Highest log p whose odds are computed: those of a certain answer are infinite."""


class Orpo(Objective):
    def loss(self, forward: Forward, batch: Batch, collected: None) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        means = forward.sums(batch) / sizes(batch)
        better, worse = sides(odds(means))
        learned = -sides(means)[0]
        losses = self.settings.sft_weight * learned + self.settings.beta * preferred(better - worse, 0.0)
        return losses.sum(), rewards(means * self.settings.beta) | {"sft_loss": learned.detach().sum()}


def odds(logs: torch.Tensor) -> torch.Tensor:
    """log(p / (1 − p)) from log p; each way of computing log(1 − p) is exact where the other is not."""
    logs = logs.clamp(max=CERTAIN)
    likely = logs > -math.log(2)
    rest = torch.where(likely, (-torch.expm1(torch.where(likely, logs, -1.0))).log(), torch.log1p(-logs.exp()))
    return logs - rest
