"""The torch decoder: one model, adapters beside each other, rows that come and go. See `truetune.engines.decoder`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from truetune.data.example import Example
from truetune.engines.base import EngineSpec, Method
from truetune.engines.decoder import DecoderSpec, Sampling, Token
from truetune.engines.rows import Admitted, Rows
from truetune.engines.torch import attention, cores, device, files, fronts, model, sample, scoring, slots
from truetune.engines.torch.stacked import Adapters
from truetune.errors import InputError


def open_decoder(spec: DecoderSpec) -> TorchDecoder:
    device.fit_threads()
    return TorchDecoder(spec)


class TorchDecoder(Rows):
    """One model on one device. See `truetune.engines.decoder.Decoder` for what each verb promises."""

    def __init__(self, spec: DecoderSpec) -> None:
        self.spec, self.slots = spec, spec.slots
        self.model = opened(spec)
        self.adapters = Adapters(self.model)
        self.core = cores.core(self.model, self.adapters)
        self.context = int(getattr(self.model.config, "max_position_embeddings", None) or 2048)
        self.admitted: dict[int, Admitted] = {}

    def admit(self, ids: Sequence[int], adapter: str | None, sampling: Sampling) -> int:
        self.refuse_unknown(adapter)
        slot = self.place(ids, adapter, fronts.length(self.adapters.front(adapter)))
        row = cores.Row([int(token) for token in ids], adapter)
        self.core.join(row)
        self.admitted[slot] = Admitted(row, adapter, sampling, torch.Generator().manual_seed(sampling.seed))
        return slot

    def decode(self) -> list[Token]:
        with computing():
            self.core.forward()
            return [self.next(slot, one) for slot, one in sorted(self.admitted.items())]

    def next(self, slot: int, one: Admitted) -> Token:
        """Choose the row's next token."""
        token = sample.choose(one.row.logits, one.sampling, one.generator)
        one.row.logits = None
        return self.take(slot, token)

    def release(self, slot: int) -> None:
        self.core.leave(self.admitted.pop(slot).row)

    def score(self, examples: Sequence[Example], adapter: str | None) -> list[NDArray[np.float32]]:
        self.refuse_unknown(adapter)
        with computing():
            return scoring.score(self.core, examples, adapter)

    def describe(self) -> dict[str, Any]:
        return {
            "engine": "torch",
            "device": self.spec.device,
            "dtype": self.spec.dtype,
            "threads": torch.get_num_threads(),
            "rows": self.core.kind,
            "slots": self.slots,
            "context": self.context,
        }

    def close(self) -> None:
        self.admitted.clear()
        del self.model, self.core, self.adapters
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@contextmanager
def computing() -> Iterator[None]:
    """Without gradients. Raises OutOfMemory."""
    with device.running_out(), torch.no_grad():
        yield


def opened(spec: DecoderSpec) -> torch.nn.Module:
    """The model of a folder, perhaps with other weights, its attention ready for slots where it can."""
    base = EngineSpec(model=spec.model, device=spec.device, dtype=spec.dtype, method=Method(bits=spec.bits))
    found = model.load(base)
    if spec.weights:
        put_weights(found, spec.weights)
    if found.config._attn_implementation == attention.NAME:
        found.set_attn_implementation(slots.NAME)
    return found.eval().requires_grad_(False)


def put_weights(found: torch.nn.Module, path: Path) -> None:
    """Replace all weights by those of a safetensors file, name by name."""
    tensors, places = files.load(path, "checkpoint.damaged"), dict(found.named_parameters())
    wrong = sorted(places.keys() ^ tensors.keys()) or sorted(
        name for name in places if places[name].shape != tensors[name].shape
    )
    if wrong:
        raise InputError(
            f"these are not the weights of this model: {wrong[0]} is missing, unknown or of another shape",
            code="model.weights",
            where=str(path),
            hint="Name the model that the checkpoint was trained from.",
        )
    for name, parameter in places.items():
        parameter.data.copy_(tensors[name])
