"""Simple preference optimisation (Meng et al. 2024, arXiv 2405.14734), without a reference model.

    −log σ(β log π(y+) / |y+| − β log π(y−) / |y−| − γ)        γ = `margin`, |y| = the answer's tokens

The reward of an answer is β log π(y) / |y|. `label_smoothing` as in DPO.
"""

from __future__ import annotations

import torch

from truetune.engines.objective import Objective
from truetune.engines.torch.batch import Batch
from truetune.engines.torch.forward import Forward, sizes
from truetune.engines.torch.objectives.pairs import preferred, rewards, sides


class Simpo(Objective):
    def loss(self, forward: Forward, batch: Batch, collected: None) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        values = self.settings.beta * forward.sums(batch) / sizes(batch)
        better, worse = sides(values)
        losses = preferred(better - worse - self.settings.margin, self.settings.label_smoothing)
        return losses.sum(), rewards(values)
