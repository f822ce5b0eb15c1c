"""The next token, for answers (`sft`) and whole texts (`pretrain`): Σ −weight · log p(token)."""

from __future__ import annotations

import mlx.core as mx

from truetune.engines.mlx.batch import Batch
from truetune.engines.mlx.forward import Forward
from truetune.engines.objective import Objective


class Language(Objective):
    def loss(self, forward: Forward, batch: Batch, collected: None) -> tuple[mx.array, dict[str, mx.array]]:
        return forward.loss(batch), {}
