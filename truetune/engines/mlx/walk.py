"""The walk over a model's layers: embedding, layers with their masks, last norm. mlx_lm's classes hold the weights and
compute each layer; the masks are ours, because the classes know no window where transformers has one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from truetune.engines.mlx.family import Layout


class Walk:
    """Hidden states of token ids.

    saving   each layer is computed again in the backward pass instead of kept
    whole    the embedding is trained too, but as in transformers not by the padding token's being read
    """

    def __init__(self, model: nn.Module, layout: Layout, *, saving: bool = False, whole: bool = False) -> None:
        self.model, self.layout, self.saving = model, layout, saving
        self.padding = layout.settings.get("pad_token_id") if whole else None

    def __call__(self, ids: mx.array, caches: Sequence[Any] | None = None) -> mx.array:
        """ids int [B, L] -> [B, L, H]. With caches the ids come after what is in them."""
        inner, layout = self.model.model, self.layout
        h = inner.embed_tokens(ids)
        if self.padding is not None:
            h = mx.where((ids == self.padding)[..., None], mx.stop_gradient(h), h)
        if layout.scale != 1.0:
            h = h * mx.array(layout.scale, dtype=h.dtype)
        before = caches[0].offset if caches else 0
        masks = {window: self.mask(ids.shape[1], before, window) for window in set(layout.windows)}
        for index, (layer, window) in enumerate(zip(inner.layers, layout.windows, strict=True)):
            if self.saving and caches is None:
                h = again(layer, h, masks[window])
            else:
                h = layer(h, masks[window], caches[index] if caches else None)
        return inner.norm(h)

    def mask(self, length: int, before: int, window: int | None) -> Any:
        """Which of `before + length` tokens each of the last `length` sees: nothing of what comes after it."""
        narrow = window is not None and before + length > window
        if not narrow and length == 1:
            return None
        if not narrow and not before and not self.layout.family.arrays:
            return "causal"
        distance = mx.arange(before, before + length)[:, None] - mx.arange(before + length)[None]
        seen = distance >= 0
        return seen & (distance < window) if narrow else seen


def again(layer: nn.Module, h: mx.array, mask: Any) -> mx.array:
    """A layer whose inner values are not kept for the backward pass."""

    def run(parameters: dict[str, Any], h: mx.array) -> mx.array:
        layer.update(parameters)
        return layer(h, mask, None)

    return mx.checkpoint(run)(layer.trainable_parameters(), h)
