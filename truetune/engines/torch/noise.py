"""NEFTune (Jain et al. 2023, arXiv 2310.05914): in training, even noise on the embeddings of every text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from truetune.engines.torch.batch import Batch


class Noise:
    """Adds numbers from ±alpha / √(L d) to the embeddings [L, d] of each text of L tokens, inside `on` and nowhere
    else. Drawn from torch's generator, which the engine sets and saves. With an alpha of None nothing is added."""

    def __init__(self, model: nn.Module, alpha: float | None) -> None:
        self.alpha = alpha
        self.lengths: torch.Tensor | None = None
        if alpha is not None:
            model.get_input_embeddings().register_forward_hook(self.add)

    @contextmanager
    def on(self, batch: Batch) -> Iterator[None]:
        """While the gradient of this micro-batch is computed."""
        self.lengths = None if self.alpha is None else lengths(batch)
        try:
            yield
        finally:
            self.lengths = None

    def add(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        """output [R, L, d]"""
        if self.lengths is None or self.alpha is None:
            return output
        sizes = self.alpha / (self.lengths * output.shape[-1]).sqrt()
        own = output[:, : sizes.shape[1]]  # a row may have been filled up behind its texts
        noise = torch.empty_like(own).uniform_(-1, 1) * sizes[..., None].to(output.dtype)
        return output + F.pad(noise, (0, 0, 0, output.shape[1] - own.shape[1]))


def lengths(batch: Batch) -> torch.Tensor:
    """Of each token, how many there are in its text: float32 [R, L]. Padding counts to nobody's length; a beginning
    that stands once for several texts counts to each."""
    if batch.mask is not None:
        return batch.mask.sum(1, keepdim=True).float().expand(batch.ids.shape)
    own = torch.tensor([end - start for start, end, *_ in batch.segments], device=batch.ids.device)
    shared = [sum(lead[1::2]) - sum(lead[::2]) for _, _, *lead in batch.segments]
    return (own + own.new_tensor(shared)).repeat_interleave(own)[None].float()
