"""The MLX decoder: one model, adapters beside each other, rows that come and go, each with a cache of its own and run
one after another. See `truetune.engines.decoder`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from truetune.data.example import Example
from truetune.engines.adjust import Said
from truetune.engines.decoder import Constraint, DecoderSpec, Sampling, Scored, Token
from truetune.engines.mlx import batch, blas, cores, device, head, model, sample
from truetune.engines.mlx.adapters import Adapters
from truetune.engines.mlx.walk import Walk
from truetune.engines.rows import Admitted, Rows

BUDGET = 2048
"""Most tokens of one forward when texts are scored; a longer text goes alone."""


def open_decoder(spec: DecoderSpec) -> MlxDecoder:
    device.use(spec.device)
    return MlxDecoder(spec)


class MlxDecoder(Rows):
    """One model on one device. See `truetune.engines.decoder.Decoder` for what each verb promises."""

    def __init__(self, spec: DecoderSpec) -> None:
        self.spec, self.slots = spec, spec.slots
        self.model, layout = model.load(spec.model, spec.dtype)
        if spec.weights:
            model.put(self.model, model.read(spec.weights, getattr(mx, spec.dtype), tied=layout.tied), spec.weights)
        if layout.tied:
            layout = model.part(self.model, layout)
        self.adapters = Adapters(self.model)
        self.head = head.of(self.model, layout)
        self.core = cores.Core(self.model, Walk(self.model, layout), self.head)
        self.vocabulary = int(self.head.weight.shape[0])
        self.context = int(layout.settings.get("max_position_embeddings") or BUDGET)
        self.admitted: dict[int, Admitted] = {}
        self.model.eval()

    def admit(
        self, ids: Sequence[int], adapter: str | None, sampling: Sampling, constraint: Constraint | None = None
    ) -> int:
        slot = self.place(ids, adapter)
        row = self.core.row(ids, sampling.prompt_logprobs)
        self.admitted[slot] = self.admission(row, adapter, sampling, constraint, row.unread[:])
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
        return Admitted(row, adapter, sampling, np.random.default_rng(sampling.seed), constraint, Said(prompt), cached)

    def decode(self, most: int = 0) -> list[Token]:
        rows = {id(one.row): one for one in self.admitted.values() if one.row.unread}
        for one in [one for one in rows.values() if one.row.begun]:
            self.forward(one)
        prompts = [one for one in rows.values() if not one.row.begun]
        if most:  # a part of the prompt that has had the fewest parts so far
            for one in sorted(prompts, key=lambda one: one.row.parts)[:1]:
                self.forward(one, most)
        else:
            for one in prompts:
                self.forward(one)
        for slot in self.shared():
            self.admitted[slot].row = self.admitted[slot].row.twin()
        going = [(slot, one) for slot, one in sorted(self.admitted.items()) if not one.row.unread]
        chosen = [(slot, *self.next(one)) for slot, one in going]
        for _, one in going:
            one.row.logits = None
        return [self.take(*each) for each in chosen]

    def forward(self, one: Admitted, most: int = 0) -> None:
        with self.adapters.using(one.adapter):
            self.core.read(one.row, self.spec.chunk, part=bool(most))
        device.refuse_overflow(device.limit())

    def next(self, one: Admitted) -> tuple[int, Scored | None]:
        """The row's next token, and its score where that is wanted."""
        raw, sampling = one.row.logits, one.sampling
        token = sample.choose(sample.adjusted(raw, sampling, one.said, one.constraint), sampling, one.generator)
        if sampling.logprobs is None:
            return token, None
        return token, *sample.scored(raw[None], np.array([token]), sampling.logprobs)

    def release(self, slot: int) -> None:
        del self.admitted[slot]

    def score(self, examples: Sequence[Example], adapter: str | None) -> list[NDArray[np.float32]]:
        self.refuse_unknown(adapter)
        found: dict[int, NDArray[np.float32]] = {}
        with self.adapters.using(adapter):
            for part in batch.cut([example.tokens for example in examples], BUDGET):
                found |= zip(part, self.logs([examples[i] for i in part]), strict=True)
                device.refuse_overflow(device.limit())
        return [found[i] for i in range(len(examples))]

    def logs(self, examples: Sequence[Example]) -> list[NDArray[np.float32]]:
        """Per example, float32 [T]: the log-probability of each token after those before it; 0 for the first."""
        everything = [Example(e.ids, np.r_[np.float32(0), np.ones(e.tokens - 1, np.float32)], e.row) for e in examples]
        one = batch.batch(everything)
        hidden = self.core.walk(one.ids)
        states = hidden.reshape(-1, hidden.shape[-1])[one.picked]
        rows = max(1, head.CHUNK // self.head.weight.shape[0])
        logs = [np.zeros(0, np.float32)]
        for start in range(0, len(one.targets), rows):
            z, at = self.head.logits(states[start : start + rows]), one.targets[start : start + rows, None]
            logs.append(np.array(mx.take_along_axis(z, at, -1)[:, 0] - mx.logsumexp(z, -1)))
        ends = np.cumsum([example.tokens - 1 for example in examples])[:-1]
        return [np.r_[np.float32(0), part] for part in np.split(np.concatenate(logs), ends)]

    def describe(self) -> dict[str, Any]:
        return {
            "engine": "mlx",
            "device": self.spec.device,
            "dtype": self.spec.dtype,
            "blas": blas.name(),
            "threads": blas.threads(),
            "rows": "one by one",
            "chunk": self.spec.chunk,
            "cache": 0,
            "slots": self.slots,
            "context": self.context,
        }

    def close(self) -> None:
        self.admitted.clear()
        del self.model, self.core, self.adapters, self.head
        mx.clear_cache()
