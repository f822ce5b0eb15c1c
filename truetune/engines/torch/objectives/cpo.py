"""Contrastive preference optimisation (Xu et al. 2024, arXiv 2401.08417), without a reference model.

    −log σ(β log π(y+) − β log π(y−))  +  sft_weight · −log π(y+) / tokens of y+

The second term is a mean over the answer's tokens, as in TRL, but each pair counts the same. The reward of an answer
is β log π(y). `label_smoothing` as in DPO.
"""

from __future__ import annotations

import torch

from truetune.engines.objective import Objective
from truetune.engines.torch.batch import Batch
from truetune.engines.torch.forward import Forward, sizes
from truetune.engines.torch.objectives.pairs import preferred, rewards, sides


class Cpo(Objective):
    def loss(self, forward: Forward, batch: Batch, collected: None) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        sums = forward.sums(batch)
        values = self.settings.beta * sums
        better, worse = sides(values)
        learned = -sides(sums / sizes(batch))[0]
        losses = preferred(better - worse, self.settings.label_smoothing) + self.settings.sft_weight * learned
        return losses.sum(), rewards(values) | {"sft_loss": learned.detach().sum()}
