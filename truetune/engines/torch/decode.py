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
from truetune.engines.adjust import Said
from truetune.engines.base import EngineSpec, Method
from truetune.engines.decoder import Constraint, DecoderSpec, Prepared, Sampling, Scored, Token
from truetune.engines.rows import Admitted, Rows
from truetune.engines.torch import attention, cores, device, files, fronts, model, sample, scoring, slots, waits
from truetune.engines.torch.prefixes import Prefixes
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
        self.prefixes = Prefixes(spec.cache) if spec.cache else None
        self.core = cores.core(self.model, self.adapters, spec.chunk, self.prefixes)
        self.context = int(getattr(self.model.config, "max_position_embeddings", None) or 2048)
        self.vocabulary = int(self.model.get_input_embeddings().weight.shape[0])
        self.admitted: dict[int, Admitted] = {}
        self.ahead = False
        """Whether prompts were read since the last step."""

    def read(self, folder: Path) -> Prepared:
        with waits.alone():
            return super().read(folder)

    def put(self, name: str, found: Prepared) -> None:
        with computing():
            super().put(name, found)
        if self.prefixes:
            self.prefixes.forget(name)

    def drop(self, name: str) -> None:
        super().drop(name)
        if self.prefixes:
            self.prefixes.forget(name)

    def admit(
        self, ids: Sequence[int], adapter: str | None, sampling: Sampling, constraint: Constraint | None = None
    ) -> int:
        self.refuse_unknown(adapter)
        slot = self.place(ids, adapter, fronts.length(self.adapters.front(adapter)))
        prompt, top = [int(token) for token in ids], sampling.prompt_logprobs
        row = cores.Row([*prompt], adapter, top=top, scored=[] if top is None else [None])
        with computing():
            self.core.join(row)
        cached = len(prompt) - len(row.unread)
        self.admitted[slot] = self.admission(row, adapter, sampling, constraint, prompt, cached)
        return slot

    def admission(
        self,
        row: cores.Row,
        adapter: str | None,
        sampling: Sampling,
        constraint: Constraint | None,
        prompt: Sequence[int],
        cached: int = 0,
    ) -> Admitted:
        generator = torch.Generator().manual_seed(sampling.seed)
        return Admitted(row, adapter, sampling, generator, constraint, Said(prompt), cached)

    def begin(self, most: int) -> list[Token]:
        with computing():
            found = self.core.read_on(most)
        self.ahead = self.ahead or found
        return self.told() if found else []

    def decode(self, most: int = 0) -> list[Token]:
        with computing():
            self.core.go_on()
            if not (most and self.ahead):
                self.core.read_on(most)
        self.ahead = False
        return self.told()

    def told(self) -> list[Token]:
        """The next token of each row whose logits are there."""
        with computing():
            for slot in self.shared():
                self.admitted[slot].row = self.core.copy(self.admitted[slot].row)
            going = [(slot, one) for slot, one in sorted(self.admitted.items()) if not one.row.unread]
            chosen = [(slot, *self.next(one)) for slot, one in going]
        for _, one in going:
            one.row.logits = None
        return [self.take(*each) for each in chosen]

    def next(self, one: Admitted) -> tuple[int, Scored | None]:
        """The row's next token, and its score where that is wanted."""
        raw, sampling = one.row.logits, one.sampling
        token = sample.choose(sample.adjusted(raw, sampling, one.said, one.constraint), sampling, one.generator)
        if sampling.logprobs is None:
            return token, None
        return token, *sample.scored(raw[None], torch.tensor([token], device=raw.device), sampling.logprobs)

    def release(self, slot: int) -> None:
        row = self.admitted.pop(slot).row
        if not self.owners(row):
            self.core.leave(row)

    def spare(self) -> None:
        self.core.spare()

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
            "chunk": self.spec.chunk,
            "cache": self.spec.cache if self.core.kind == "batched" else 0,
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
