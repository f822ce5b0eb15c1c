"""The protocol of generation: evaluation, samples, chat and serving all drive a `Decoder`. Token ids, floats and paths
cross it, nothing else.

A decoder holds one base model, any number of adapters, and a fixed number of slots. A prompt is admitted into a slot
with the adapter it wants; every `decode` gives each admitted row its next token; a row that has ended leaves its slot
at once, so that its neighbours go on without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from truetune.data.example import Example


@dataclass(frozen=True)
class DecoderSpec:
    """All a decoder needs to open: a local model folder and plain values."""

    model: Path
    weights: Path | None = None
    """A safetensors file that replaces the folder's own weights: a checkpoint of full fine-tuning."""
    device: str = "cpu"
    dtype: str = "float32"
    bits: int = 0
    """Of the base's weights, as in `Method.bits`: an adapter belongs to the base that it was trained on."""
    slots: int = 8
    """Rows that are decoded together."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen, and when a row ends.

    temperature   0 = always the likeliest token (greedy); else logits are divided by it
    top_k         only the k likeliest tokens; 0 = all
    top_p         only the likeliest tokens that together reach this probability (Holtzman et al. 2020)
    seed          of the row's own random numbers: the same seed gives the same tokens, whatever else is decoded
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    max_new_tokens: int = 256
    stops: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Token:
    """The next token of one row. With a `reason` it is the row's last one, and its slot is free again."""

    slot: int
    id: int
    reason: Literal["", "stop", "length"] = ""


class Decoder(Protocol):
    """One base model with its adapters. Errors: `OutOfMemory` of `base` from admit, decode and score."""

    context: int
    """Most tokens of a row, prompt and answer together."""
    slots: int

    def load(self, name: str, folder: Path) -> None:
        """Read an adapter (PEFT layout) under a name; an adapter of that name is replaced.

        Raises InputError: `adapter.missing`, `adapter.damaged`, `adapter.unsupported`, `adapter.mismatch`.
        """
        ...

    def drop(self, name: str) -> None:
        """Forget an adapter. KeyError where there is none; ValueError while a row uses it."""
        ...

    def admit(self, ids: Sequence[int], adapter: str | None, sampling: Sampling) -> int:
        """Put a prompt (at least one token) into a free slot and return the slot. None = the base alone.

        Raises `Full` where no slot is free, KeyError for an unknown adapter, and UsageError `generation.too_long`
        where the prompt leaves no room for an answer. An answer is cut (`length`) where the context ends.
        """
        ...

    def decode(self) -> list[Token]:
        """The next token of every admitted row, by slot; none where nothing is admitted.

        After OutOfMemory it can be called again, with fewer rows where some are released: no token is lost.
        """
        ...

    def release(self, slot: int) -> None:
        """Give up a row before its end."""
        ...

    def score(self, examples: Sequence[Example], adapter: str | None) -> list[NDArray[np.float32]]:
        """Per example, float32 [T]: the log-probability of each token after those before it; 0 for the first."""
        ...

    def describe(self) -> dict[str, Any]:
        """JSON-ready facts: engine, device, dtype, slots, context, and whether rows go `batched` or `one by one`."""
        ...

    def close(self) -> None: ...


class Full(Exception):
    """Every slot is taken: decode until one is free."""
