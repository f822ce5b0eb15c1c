"""Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290), and its losses.

With h = (log π(y+) − log π_ref(y+)) − (log π(y−) − log π_ref(y−)) for the better answer y+ and the worse y−:

    sigmoid   −(1 − ε) log σ(βh) − ε log σ(−βh)      ε = label smoothing (Mitchell 2023)
    hinge     max(0, 1 − βh)                          (Zhao et al. 2023, SLiC, arXiv 2305.10425)
    ipo       (h − 1 / 2β)²                           (Azar et al. 2023, arXiv 2310.12036), each answer's part of h
                                                      divided by its tokens, as TRL does after asking the authors

The reward of an answer is β (log π(y) − log π_ref(y)).
"""

from __future__ import annotations

import torch

from truetune.engines.objective import Objective
from truetune.engines.torch.batch import Batch
from truetune.engines.torch.forward import Forward, sizes
from truetune.engines.torch.objectives.pairs import preferred, reference, rewards, sides


class Dpo(Objective):
    def loss(self, forward: Forward, batch: Batch, collected: None) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        gains = forward.sums(batch) - reference(batch)
        losses = self.losses(gains / sizes(batch) if self.settings.loss == "ipo" else gains)
        return losses.sum(), rewards(gains * self.settings.beta)

    def losses(self, gains: torch.Tensor) -> torch.Tensor:
        """Of each pair, from log π − log π_ref of each text."""
        beta = self.settings.beta
        better, worse = sides(gains)
        margin = better - worse
        if self.settings.loss == "ipo":
            return (margin - 1 / (2 * beta)) ** 2
        if self.settings.loss == "hinge":
            return torch.relu(1 - beta * margin)
        return preferred(beta * margin, self.settings.label_smoothing)
