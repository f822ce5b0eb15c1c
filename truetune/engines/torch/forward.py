"""From a micro-batch to its weighted loss, by the packed way or the padded one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from truetune.engines.torch import attention, head
from truetune.engines.torch.batch import Batch


class Forward:
    """Σ weight · loss over the supervised tokens of a micro-batch, as a float64 scalar.

    Packed: the decoder runs over one row of segments, the head on supervised positions only, in chunks.
    Padded: the model's own forward, logits and all.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.packs = model.config._attn_implementation == attention.NAME

    def __call__(self, batch: Batch) -> torch.Tensor:
        return self.packed(batch) if self.packs else self.padded(batch)

    def packed(self, batch: Batch) -> torch.Tensor:
        return head.loss(self.hidden(batch), head.of(self.model), batch.targets, batch.weights)

    def hidden(self, batch: Batch) -> torch.Tensor:
        """Hidden states at the picked positions of a packed row, [N, H]."""
        output = self.model.base_model(
            input_ids=batch.ids, position_ids=batch.positions, segments=batch.segments, use_cache=False
        )
        return output.last_hidden_state[0].index_select(0, batch.picked)

    def padded(self, batch: Batch) -> torch.Tensor:
        losses = F.cross_entropy(self.logits(batch), batch.targets, reduction="none")
        return (losses * batch.weights).double().sum()

    def logits(self, batch: Batch) -> torch.Tensor:
        inputs = {"input_ids": batch.ids, "attention_mask": batch.mask, "position_ids": batch.positions}
        logits = self.model(**inputs, use_cache=False).logits
        return logits.flatten(0, 1).index_select(0, batch.picked).float()
