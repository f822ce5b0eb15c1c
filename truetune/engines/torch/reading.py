"""Embeddings: an encoder's body over texts side by side, and one vector of what it makes of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn
from transformers import AutoModel, PreTrainedConfig

from truetune.engines import heads
from truetune.engines.base import EngineSpec, Method
from truetune.engines.decoder import DecoderSpec
from truetune.engines.torch import device, model
from truetune.engines.torch.config import part
from truetune.models.encoders import Pooling


class Body:
    """What a model is loaded with where only its states are wanted; it takes the place of `pooled.Head`."""

    def kind(self, settings: PreTrainedConfig) -> tuple[Any, PreTrainedConfig]:
        mapping = AutoModel._model_mapping
        if type(settings) not in mapping:
            raise ValueError(f"{settings.model_type} has no body without a head in transformers")
        return part(mapping, settings)

    def kept(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return dict(tensors)

    def begin(self, model: nn.Module, loaded: dict[str, Any]) -> dict[str, Any]:
        """Heads that the folder brings are not read; BERT's own pooler, which many folders lack, is not asked."""
        missing = {name for name in loaded["missing_keys"] if not heads.OTHERS.search(name)}
        extra = {name for name in loaded["unexpected_keys"] if not heads.OTHERS.search(name)}
        return {**loaded, "missing_keys": missing, "unexpected_keys": extra}


class Reader:
    """An encoder on a device. See `truetune.engines.reader.Reader`."""

    def __init__(self, spec: DecoderSpec) -> None:
        found = EngineSpec(model=spec.model, device=spec.device, dtype=spec.dtype, method=Method(bits=spec.bits))
        self.model = model.load(found, Body()).eval().requires_grad_(False)

    def embed(self, texts: Sequence[Sequence[int]], pooling: Pooling) -> NDArray[np.float32]:
        with device.running_out(), torch.no_grad():
            return embedded(self.model, texts, pooling)


def open_reader(spec: DecoderSpec) -> Reader:
    device.fit_threads()
    return Reader(spec)


def embedded(model: nn.Module, texts: Sequence[Sequence[int]], pooling: Pooling) -> NDArray[np.float32]:
    """float32 [texts, H]. `model`: an encoder, or one with a head, whose body is asked; texts are padded on the right,
    and what is padded is neither seen nor counted."""
    longest = max(map(len, texts))
    place = next(model.parameters()).device
    ids = torch.full((len(texts), longest), model.config.pad_token_id or 0, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor(list(text))
        mask[row, : len(text)] = 1
    ids, mask = ids.to(place), mask.to(place)
    states = model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
    return np.ascontiguousarray(pooled(states, mask, pooling).cpu().numpy())


def pooled(states: torch.Tensor, mask: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """[R, H] of states [R, L, H] and a mask [R, L] of what is text."""
    inside, count = mask[..., None].bool(), mask.sum(1, keepdim=True)
    if pooling.kind == "cls":
        found = states[:, 0]
    elif pooling.kind == "max":
        found = states.masked_fill(~inside, float("-inf")).amax(1)
    else:
        total = states.masked_fill(~inside, 0).sum(1)
        found = total / (count if pooling.kind == "mean" else count.sqrt())
    return F.normalize(found, dim=1) if pooling.normalised else found
