"""The MLX decoder: one model, adapters beside each other, rows that come and go, each with a cache of its own and run
one after another. See `truetune.engines.decoder`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from truetune.data.example import Example
from truetune.engines.decoder import DecoderSpec, Sampling, Token
from truetune.engines.mlx import batch, blas, cores, device, head, model, sample
from truetune.engines.mlx.adapters import Adapters
from truetune.engines.mlx.walk import Walk
from truetune.engines.rows import Admitted, Rows

BUDGET = 2048
"""Most tokens of one forward when texts are scored; a longer text goes alone."""


def open_decoder(spec: DecoderSpec) -> MlxDecoder:
    device.use(spec.device)
    return MlxDecoder(spec)


@dataclass
class Waiting(Admitted):
    """A row in its slot. Its logits are kept, so that a failed forward of a neighbour can be repeated."""

    logits: NDArray[np.float32] | None = None


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
        self.context = int(layout.settings.get("max_position_embeddings") or BUDGET)
        self.admitted: dict[int, Waiting] = {}
        self.model.eval()

    def admit(self, ids: Sequence[int], adapter: str | None, sampling: Sampling) -> int:
        slot = self.place(ids, adapter)
        self.admitted[slot] = Waiting(self.core.row(ids), adapter, sampling, np.random.default_rng(sampling.seed))
        return slot

    def decode(self) -> list[Token]:
        for one in self.admitted.values():
            if one.logits is None:
                with self.adapters.using(one.adapter):
                    one.logits = self.core.read(one.row)
                device.refuse_overflow(device.limit())
        return [self.next(slot, one) for slot, one in sorted(self.admitted.items())]

    def next(self, slot: int, one: Waiting) -> Token:
        """Choose the row's next token."""
        assert one.logits is not None
        token = sample.choose(one.logits, one.sampling, one.generator)
        one.logits = None
        return self.take(slot, token)

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
            "slots": self.slots,
            "context": self.context,
        }

    def close(self) -> None:
        self.admitted.clear()
        del self.model, self.core, self.adapters, self.head
        mx.clear_cache()
