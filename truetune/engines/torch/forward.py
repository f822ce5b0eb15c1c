"""From a micro-batch to what the model thinks of it, by the packed way or the padded one.

Packed: the decoder runs over one row of segments, the head on supervised positions only, in chunks.
Padded: the model's own forward, logits and all.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from truetune.engines.torch import attention, head, products, spared
from truetune.engines.torch.batch import Batch


class Forward:
    """What objectives are made of."""

    def __init__(self, model: nn.Module, virtual: int = 0) -> None:
        """`virtual`: tokens that the model puts before every text itself; then it knows its positions itself too."""
        self.model, self.virtual = model, virtual
        self.packs = model.config._attn_implementation == attention.NAME
        self.spared = spared.Spared(model)

    def loss(self, batch: Batch) -> torch.Tensor:
        """Σ −weight · log p over the supervised tokens, as a float64 scalar."""
        if self.packs:
            return head.loss(self.hidden(batch), head.of(self.model), batch.targets, batch.weights)
        return -(self.logps(batch) * batch.weights).double().sum()

    def logps(self, batch: Batch) -> torch.Tensor:
        """log p of each supervised token, float32 [N]."""
        if self.packs:
            return head.logps(self.hidden(batch), head.of(self.model), batch.targets)
        return -F.cross_entropy(self.logits(batch), batch.targets, reduction="none")

    def sums(self, batch: Batch) -> torch.Tensor:
        """Σ weight · log p of each text, float32 [texts]."""
        return per_text(self.logps(batch) * batch.weights, batch)

    def hidden(self, batch: Batch) -> torch.Tensor:
        """Hidden states at the picked positions of a packed row, [N, H]."""
        ids, positions, segments = filled(batch)
        with self.spared.at(batch.wanted, ids.shape[1]):
            output = self.model.base_model(input_ids=ids, position_ids=positions, segments=segments, use_cache=False)
        return output.last_hidden_state[0].index_select(0, batch.picked)

    def logits(self, batch: Batch) -> torch.Tensor:
        positions = {} if self.virtual else {"position_ids": batch.positions}
        logits = self.model(input_ids=batch.ids, attention_mask=batch.mask, **positions, use_cache=False).logits
        logits = logits[:, -batch.ids.shape[1] :]
        return logits.flatten(0, 1).index_select(0, batch.picked).float()


def filled(batch: Batch) -> tuple[torch.Tensor, torch.Tensor, tuple[attention.Segment, ...]]:
    """ids and positions [1, L] and segments of a packed row, with a segment of nobody's tokens at its end where this
    processor multiplies rounded numbers of rows."""
    length = batch.ids.shape[1]
    more = products.missing(length, batch.ids.device)
    if not more:
        return batch.ids, batch.positions, batch.segments
    ids, positions = (F.pad(each, (0, more)) for each in (batch.ids, batch.positions))
    return ids, positions, (*batch.segments, (length, length + more))


def per_text(values: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Values of supervised tokens [N], summed over each text: [texts]."""
    return values.new_zeros(batch.texts).index_add(0, batch.owners, values)


def sizes(batch: Batch) -> torch.Tensor:
    """Σ weight of each text, float32 [texts]."""
    return per_text(batch.weights, batch)
