"""Do two engines compute the same from the same files? Log-probabilities of the tokens of some texts, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from truetune import engines
from truetune.data.example import Example
from truetune.engines.decoder import DecoderSpec

TOLERANCE = 1e-4
"""Largest difference of log-probabilities, in nats, that float32 and another order of sums explain."""


@dataclass(frozen=True)
class Parity:
    """Differences of the log-probabilities of `tokens` tokens, in nats."""

    first: str
    second: str
    tokens: int
    largest: float
    mean: float

    @property
    def ok(self) -> bool:
        return self.largest <= TOLERANCE

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "tolerance": TOLERANCE, "ok": self.ok}


def compare(
    model: Path,
    texts: Sequence[Sequence[int]],
    *,
    adapter: Path | None = None,
    first: str = "torch",
    second: str = "mlx",
) -> Parity:
    """Both engines over the same folder, with an adapter or without. `texts` are token ids.

    Raises what `engines.open_decoder` and `Decoder.load` raise.
    """
    one, other = (np.concatenate(scores(name, model, texts, adapter)) for name in (first, second))
    difference = np.abs(one - other)
    return Parity(first, second, len(difference), float(difference.max()), float(difference.mean()))


def scores(engine: str, model: Path, texts: Sequence[Sequence[int]], adapter: Path | None) -> list[NDArray[np.float32]]:
    decoder = engines.open_decoder(engine, DecoderSpec(model))
    try:
        if adapter:
            decoder.load("tuned", adapter)
        examples = [Example(np.asarray(ids, np.int32), np.ones(len(ids), np.float32), 0) for ids in texts]
        return [row[1:] for row in decoder.score(examples, "tuned" if adapter else None)]
    finally:
        decoder.close()
