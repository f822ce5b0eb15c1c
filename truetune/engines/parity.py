"""Do two sides compute the same? Log-probabilities of the tokens of some texts, one side after the other.

A side is an engine, or mlx_lm itself with its own loader and its own layout of adapters.
"""

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
"""Largest difference that float32 and another order of sums explain."""
LENGTHS = (7, 24, 33, 64)
MLX_LM = "mlx_lm"

Texts = Sequence[Sequence[int] | NDArray[np.int32]]


@dataclass(frozen=True)
class Side:
    """Who computes: `torch`, `mlx`, or `mlx_lm`; over which model, with an adapter in the layout that it reads."""

    engine: str
    model: Path
    adapter: Path | None = None
    exact: bool = True
    """In float32; mlx_lm's own way is the number type that the weights are stored in."""
    bits: int = 0
    """Of the base, packed as it was for training."""


@dataclass(frozen=True)
class Parity:
    """How far the log-probabilities of `tokens` tokens lie apart: in nats up to one nat, beyond that as a share."""

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


def apart(first: Side, one: NDArray[np.float32], second: Side, other: NDArray[np.float32]) -> Parity:
    """How far the `scores` of two sides over the same texts lie apart."""
    difference = np.abs(one - other) / np.maximum(1, np.abs(one))
    return Parity(first.engine, second.engine, len(difference), float(difference.max()), float(difference.mean()))


def scores(side: Side, texts: Texts) -> NDArray[np.float32]:
    """The log-probability of each token of the texts (ids) after those before it, in nats, one text behind the other:
    float32 [sum of T − 1]. On the CPU.

    Raises what `engines.open_decoder`, `Decoder.load` and mlx_lm's `scores` raise.
    """
    if side.engine == MLX_LM:
        return np.concatenate(engines.module("mlx").exchange.scores(side.model, side.adapter, texts, side.exact))
    decoder = engines.open_decoder(side.engine, DecoderSpec(side.model, bits=side.bits))
    try:
        if side.adapter:
            decoder.load("tuned", side.adapter)
        examples = [Example(np.asarray(ids, np.int32), np.ones(len(ids), np.float32), 0) for ids in texts]
        return np.concatenate([row[1:] for row in decoder.score(examples, "tuned" if side.adapter else None)])
    finally:
        decoder.close()


def probes(vocabulary: int) -> list[NDArray[np.int32]]:
    """Texts to compare on: tokens drawn from all of a vocabulary, the same ones every time."""
    draw = np.random.default_rng(0)
    return [draw.integers(0, vocabulary, length).astype(np.int32) for length in LENGTHS]
