"""The next token, for answers (`sft`) and whole texts (`pretrain`): Σ −weight · log p(token)."""

from __future__ import annotations

import torch

from truetune.engines.objective import Objective
from truetune.engines.torch.batch import Batch
from truetune.engines.torch.forward import Forward


class Language(Objective):
    def loss(self, forward: Forward, batch: Batch, collected: None) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return forward.loss(batch), {}
