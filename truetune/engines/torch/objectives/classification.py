"""The class of a text: cross-entropy over the scores, or where a text has any number of classes, a decision for each.

    one class    w_y · (logsumexp(s) − s_y)
    several      mean over the classes c of −w_c · y_c · log σ(s_c) − (1 − y_c) · log(1 − σ(s_c))

Summed over the rows and divided by their number: a weight makes a class count more, and does not change what is
divided by (torch's own weighted mean does).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from truetune.engines import base
from truetune.engines.objective import Objective
from truetune.engines.torch import pooled
from truetune.engines.torch.batch import Batch
from truetune.engines.torch.forward import Forward


class Classification(Objective):
    def __init__(self, settings: base.Objective) -> None:
        super().__init__(settings)
        threshold = settings.threshold
        self.bound = math.log(threshold / (1 - threshold))
        """The score from which a class is taken to hold."""

    def loss(self, forward: Forward, batch: Batch, collected: None) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        scores = pooled.of(forward, batch)
        weights = torch.tensor(self.settings.class_weights or [1.0] * scores.shape[1], device=scores.device)
        if self.settings.several:
            return self.several(scores, weights, batch)
        labels = torch.tensor([example.label[0] for example in batch.examples], device=scores.device)
        losses = F.cross_entropy(scores, labels, reduction="none") * weights[labels]
        return losses.sum(), {"accuracy": (scores.argmax(1) == labels).float().sum()}

    def several(
        self, scores: torch.Tensor, weights: torch.Tensor, batch: Batch
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """A text is right where all its classes are."""
        holds = torch.zeros_like(scores)
        for row, example in enumerate(batch.examples):
            holds[row, list(example.label)] = 1
        losses = F.binary_cross_entropy_with_logits(scores, holds, pos_weight=weights, reduction="none").mean(1)
        right = ((scores >= self.bound) == (holds == 1)).all(1)
        return losses.sum(), {"accuracy": right.float().sum()}
