"""What the gate asks of a format, and of a program that has a model loaded: the one that trained it, or the one that an
export is for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from truetune.export.bounds import TOLERANCE
from truetune.export.origin import Origin

Ids = Sequence[int]
Messages = Sequence[Mapping[str, str]]
Logs = NDArray[np.float32]
"""float32 [T, V], in nats: the log-probability of every token of the vocabulary after each token of a text. NaN where
the program does not tell a token; one that tells only the likeliest of each place is compared on those."""


class Refused(Exception):
    """The program's template refuses a conversation, or the program has no template. The text is its reason."""


class Runtime:
    """A program with a model loaded, on the CPU. What it cannot be asked is None, and the report says "not checked".

    Opening one raises what its loader raises, as our errors. Use it as a context manager: it is closed behind.
    """

    name = ""
    """As the report calls it: `torch`, `mlx_lm`, `transformers`, `llama.cpp`."""
    tolerance = TOLERANCE
    """How far its log-probabilities may lie apart though it computes what was trained, as in `bounds`."""

    def ids(self, messages: Messages) -> list[int] | None:
        """A conversation up to where the answer begins, by the program's own template and tokenizer. Raises Refused."""
        return None

    def encode(self, text: str) -> list[int] | None:
        """A plain text by the program's own tokenizer, without a token put before or behind; control tokens that stand
        in the text are read as such."""
        return None

    def ends(self) -> frozenset[int] | None:
        """The tokens at which the program says that it stops."""
        return None

    def closing(self) -> frozenset[int]:
        """Of the trained side, those of its ends that its answers were trained to close with."""
        return self.ends() or frozenset()

    def stops(self, ids: Ids, token: int) -> bool | None:
        """Does the program really stop where `token` is forced to be the first one of the answer to `ids`?"""
        return None

    def logs(self, texts: Sequence[Ids]) -> list[Logs] | None:
        """Of each text, `Logs` of as many places as it has tokens."""
        return None

    def answer(self, ids: Ids, limit: int) -> list[int] | None:
        """Greedy continuation: exactly `limit` tokens, through ends and all."""
        return None

    def close(self) -> None:
        """Give back the memory, and end what was started."""

    def __enter__(self) -> Runtime:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class Options:
    """What is asked of a format beside its name."""

    quant: str | None = None
    """The number type to store, of the target's `QUANTS`; None = the format's default."""


@dataclass(frozen=True)
class Part:
    """A tensor of an export beside what should stand there, in the same layout: for finding what broke."""

    name: str
    wanted: NDArray[Any]
    found: NDArray[Any]
    adapted: bool
    """Whether the adapter changes it; what it does not change must be the base's."""


class Target(Protocol):
    """A module that knows one format. The gate calls, in this order: check; write, runtime (exact); reduce and, where
    that stored another number type, runtime again; usage. One that holds a whole model has `plan`, too, and with `once`
    and `sampled` it writes and checks models that the memory does not hold, see `toolarge`."""

    QUANTS: Sequence[str]
    """Names for `Options.quant`, each with a row in `bounds.BOUNDS`; empty where the format has no choice."""

    @staticmethod
    def check(origin: Origin, options: Options) -> None:
        """Refuse what this format has no place for, by a TrueTuneError, from config files alone. With `origin.planned`
        nothing is trained yet, and the question is whether what is trained on this base could be exported."""
        ...

    @staticmethod
    def write(origin: Origin, folder: Path, options: Options) -> None:
        """Fill an existing folder with what computes in float32 what was trained, tokenizer and template beside it."""
        ...

    @staticmethod
    def reduce(origin: Origin, folder: Path, options: Options) -> str | None:
        """After that was compared: store the number type that was asked for, in place; returns its name, a row of
        `bounds.BOUNDS`. None where nothing is rounded: what stands is the result."""
        ...

    @staticmethod
    def runtime(origin: Origin, folder: Path, exact: bool) -> Runtime:
        """The format's own program with what stands in the folder loaded. `exact`: computing in float32, if it can
        choose; else as it does by itself."""
        ...

    @staticmethod
    def parts(origin: Origin, folder: Path) -> Iterator[Part] | None:
        """Every tensor that stands in the folder (before `reduce`) beside what should stand there, made by another way
        than `write`; None where that cannot be told."""
        ...

    @staticmethod
    def usage(origin: Origin, place: Path) -> str:
        """What to type to run the export that stands at `place`: commands or Python, for card and terminal."""
        ...
