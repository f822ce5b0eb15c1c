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
from typing import Any, Literal, NamedTuple, Protocol

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
    chunk: int = 512
    """A prompt is read in parts of so many tokens."""
    cache: int = 0
    """Bytes for keys and values of prompts' parts that are kept, for prompts that begin in the same way."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen, and when a row ends.

    temperature          0 = always the likeliest token (greedy); else logits are divided by it
    top_k                only the k likeliest tokens; 0 = all
    top_p                only the likeliest tokens that together reach this probability (Holtzman et al. 2020)
    min_p                only tokens at least so likely as this part of the likeliest one (Nguyen et al. 2024)
    repetition_penalty   logits of tokens in prompt and answer are divided by it, or multiplied where below 0
                         (Keskar et al. 2019)
    presence_penalty     taken from the logits of tokens that the answer has
    frequency_penalty    the same, for every time that it has them
    bias                 (token, what its logit gets on top)
    seed                 of the row's own random numbers: the same seed gives the same tokens, whatever else is decoded
    min_new_tokens       no stop token before so many
    logprobs             how many of the likeliest tokens are told with each token, of the model's own distribution
                         before all of the above; None = not even the token's own
    prompt_logprobs      the same for the prompt's tokens
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    bias: tuple[tuple[int, float], ...] = ()
    seed: int = 0
    max_new_tokens: int = 256
    min_new_tokens: int = 0
    stops: frozenset[int] = frozenset()
    logprobs: int | None = None
    prompt_logprobs: int | None = None


class Scored(NamedTuple):
    """A token's log-probability after those before it, and the likeliest tokens in its place, likeliest first."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Token:
    """The next token of one row. With a `reason` it is the row's last one, and its slot is free again."""

    slot: int
    id: int
    reason: Literal["", "stop", "length"] = ""
    scored: Scored | None = None
    prompt: tuple[Scored | None, ...] = ()
    """With a row's first token, where `prompt_logprobs` asks for it: one for each token of the prompt, None for its
    first."""


@dataclass(frozen=True)
class Prepared:
    """An adapter that was read, and is not yet in a decoder."""

    mixed: bool
    """Whether its rows are computed together with others'."""
    parts: Any
    """The engine's own."""
    sure: bool = False
    """Whether putting it cannot fail: all of it was checked, and it has the memory that it needs."""


class Constraint(Protocol):
    """What a row may say, token by token. It raises nothing: the decoder's other rows would go down with it."""

    def allowed(self) -> NDArray[np.bool_] | None:
        """bool [tokens]: which may come next, none beyond its end; None = every one."""
        ...

    def take(self, token: int) -> None:
        """The row goes on with this token."""
        ...


class Decoder(Protocol):
    """One base model with its adapters. Errors: `OutOfMemory` of `base` from admit, put, decode and score.

    All verbs but `read` belong to one thread, the one that has opened the decoder.
    """

    context: int
    """Most tokens of a row, prompt and answer together."""
    slots: int
    vocabulary: int
    """Ids of tokens run from 0 to below this."""

    def load(self, name: str, folder: Path) -> None:
        """Read an adapter (PEFT layout) under a name; an adapter of that name is replaced. Raises as `read`."""
        ...

    def read(self, folder: Path) -> Prepared:
        """The slow part of loading an adapter. Any thread may call it while rows go on.

        Raises InputError: `adapter.missing`, `adapter.damaged`, `adapter.unsupported`, `adapter.mismatch`.
        """
        ...

    def put(self, name: str, found: Prepared) -> None:
        """Have an adapter that was read, under a name; one of that name is replaced. ValueError while a row uses the
        name; else raises as `read`."""
        ...

    def drop(self, name: str) -> None:
        """Forget an adapter. KeyError where there is none; ValueError while a row uses it."""
        ...

    def admit(
        self, ids: Sequence[int], adapter: str | None, sampling: Sampling, constraint: Constraint | None = None
    ) -> int:
        """Put a prompt (at least one token) into a free slot and return the slot. None = the base alone.

        Raises `Full` where no slot is free, KeyError for an unknown adapter, and UsageError `generation.too_long`
        where the prompt leaves no room for an answer. An answer is cut (`length`) where the context ends.
        """
        ...

    def fork(self, slot: int, sampling: Sampling, constraint: Constraint | None = None) -> int:
        """Another answer to the prompt in a slot, which is read once for both. Raises `Full`; ValueError where the
        first one has begun."""
        ...

    def begin(self, most: int) -> list[Token]:
        """Read about `most` tokens of new prompts; the first tokens of those that are read to their end. The next
        `decode` reads no more then. For a scheduler that tells them at once, before the others' step; an engine that
        reads in `decode` alone gives none."""
        ...

    def decode(self, most: int = 0) -> list[Token]:
        """The next token of every admitted row, by slot; none where nothing is admitted.

        With `most`, about so many tokens of new prompts are read in this call, and one part of one at least; the rows
        whose prompts are not read to their end give no token yet. After OutOfMemory it can be called again, with fewer
        rows where some are released: no token is lost.
        """
        ...

    def cached(self, slot: int) -> int:
        """How many tokens of a row's prompt were read for an earlier one."""
        ...

    def spare(self) -> None:
        """Give back what is only kept to save time."""
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
