"""The class of a text, or its classes; the formulas stand with torch's."""

from __future__ import annotations

import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from truetune.engines import base
from truetune.engines.mlx.batch import Batch
from truetune.engines.mlx.forward import Forward
from truetune.engines.objective import Objective


class Classification(Objective):
    def __init__(self, settings: base.Objective) -> None:
        super().__init__(settings)
        threshold = settings.threshold
        self.bound = math.log(threshold / (1 - threshold))
        """The score from which a class is taken to hold."""

    def loss(self, forward: Forward, batch: Batch, collected: None) -> tuple[mx.array, dict[str, mx.array]]:
        scores = forward.scores(batch)
        weights = mx.array(self.settings.class_weights or [1.0] * scores.shape[1], dtype=mx.float32)
        if self.settings.several:
            return self.several(scores, weights, batch)
        labels = mx.array([example.label[0] for example in batch.examples])
        losses = nn.losses.cross_entropy(scores, labels) * weights[labels]
        return losses.sum(), {"accuracy": (scores.argmax(1) == labels).sum()}

    def several(self, scores: mx.array, weights: mx.array, batch: Batch) -> tuple[mx.array, dict[str, mx.array]]:
        """A text is right where all its classes are."""
        table = np.zeros(scores.shape, bool)
        for row, example in enumerate(batch.examples):
            table[row, list(example.label)] = True
        holds = mx.array(table)
        losses = mx.where(holds, -weights * nn.log_sigmoid(scores), -nn.log_sigmoid(-scores)).mean(1)
        return losses.sum(), {"accuracy": ((scores >= self.bound) == holds).all(1).sum()}
