"""A score for answers, learned from pairs of which one is better (Bradley & Terry 1952; InstructGPT, 2022,
arXiv 2203.02155): −log σ(r(y+) − r(y−)), with r the number that the head gives at the last token of an answer.
"""

from __future__ import annotations

import torch

from truetune.engines.objective import Objective
from truetune.engines.torch import pooled
from truetune.engines.torch.batch import Batch
from truetune.engines.torch.forward import Forward
from truetune.engines.torch.objectives.pairs import preferred, rewards, sides


class Reward(Objective):
    def loss(self, forward: Forward, batch: Batch, collected: None) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        values = pooled.of(forward, batch)[:, 0]
        better, worse = sides(values)
        return preferred(better - worse, 0.0).sum(), rewards(values)
