"""Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290), and its losses.

With h = (log π(y+) − log π_ref(y+)) − (log π(y−) − log π_ref(y−)) for the better answer y+ and the worse y−:

    sigmoid   −(1 − ε) log σ(βh) − ε log σ(−βh)      ε = label smoothing (Mitchell 2023)
    hinge     max(0, 1 − βh)                          (Zhao et al. 2023, SLiC)
    ipo       (h / tokens − 1 / 2β)²                  (Azar et al. 2023), each answer's part of h by its own length
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from truetune.engines import base
from truetune.engines.torch.batch import Batch
from truetune.engines.torch.forward import Forward, sizes


class Dpo:
    def __init__(self, settings: base.Objective) -> None:
        self.settings = settings

    def collect(self, engine: base.TrainEngine, plan: base.Plan) -> None:
        return None

    def loss(self, forward: Forward, batch: Batch, collected: None) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        gains = forward.sums(batch) - reference(batch)
        losses = self.losses(gains / sizes(batch) if self.settings.loss == "ipo" else gains)
        return losses.sum(), rewards(gains * self.settings.beta)

    def losses(self, gains: torch.Tensor) -> torch.Tensor:
        """Of each pair, from log π − log π_ref of each text."""
        beta, smoothing = self.settings.beta, self.settings.label_smoothing
        better, worse = sides(gains)
        margin = better - worse
        if self.settings.loss == "ipo":
            return (margin - 1 / (2 * beta)) ** 2
        if self.settings.loss == "hinge":
            return torch.relu(1 - beta * margin)
        return -F.logsigmoid(beta * margin) * (1 - smoothing) - F.logsigmoid(-beta * margin) * smoothing


def reference(batch: Batch) -> torch.Tensor:
    """log π_ref of each text, float32 [texts]."""
    values = [value for example in batch.examples for value in example.reference]
    return torch.tensor(values, dtype=torch.float32, device=batch.ids.device)


def sides(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the better and of the worse answers, from those of all texts."""
    return values[0::2], values[1::2]


def rewards(values: torch.Tensor) -> dict[str, torch.Tensor]:
    """Sums over the pairs of what the texts' rewards come to."""
    better, worse = sides(values.detach())
    return {
        "reward_chosen": better.sum(),
        "reward_rejected": worse.sum(),
        "reward_margin": (better - worse).sum(),
        "reward_accuracy": (better > worse).float().sum(),
    }
