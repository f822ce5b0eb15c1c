"""What goes into the scheduler and what comes out of it: requests, events, limits, and how it says no."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

from truetune.engines.decoder import Constraint, Sampling, Scored
from truetune.errors import TrueTuneError

Reason = Literal["", "stop", "length", "cancelled", "timeout", "error"]
"""Why an answer ended: at a stop token, a stop string or where its grammar does; as long as allowed; given up by who
asked; out of time; by an error. Empty while it goes on."""


class Grammar(Protocol):
    """What answers may say: the same for many rows, each of which begins anew."""

    def begin(self, stops: frozenset[int]) -> Ruled:
        """For an answer that ends with one of these tokens."""
        ...


class Ruled(Constraint, Protocol):
    """A grammar on its way through one answer."""

    failed: TrueTuneError | None
    """Why it cannot go on, if so."""
    done: bool
    """Whether nothing can follow any more."""


@dataclass(frozen=True)
class Request:
    """One prompt with `n` answers to it; answer i is drawn from the seed + i.

    `sampling.stops` are the tokens that end an answer (none: only its length does), `stops` the texts that do; neither
    is part of the answer.
    """

    ids: tuple[int, ...]
    """The prompt, at least one token."""
    adapter: str | None = None
    """A name that was loaded; None = the base."""
    sampling: Sampling = field(default_factory=Sampling)
    stops: tuple[str, ...] = ()
    n: int = 1
    grammar: Grammar | None = None
    """From `Scheduler.grammar`."""
    timeout: float | None = None
    """Seconds from when it is submitted until it is given up."""


@dataclass(frozen=True)
class Said:
    """A token of an answer."""

    id: int
    scored: Scored | None = None
    """Where `sampling.logprobs` asks for it."""


@dataclass(frozen=True)
class Event:
    """News of one answer: text that is certain, and the tokens that it is made of; often one token, sometimes none
    (a character that is not whole, what may become a stop string), sometimes several. With a `reason` the last one."""

    choice: int
    """Which of the request's answers, from 0."""
    text: str = ""
    tokens: tuple[Said, ...] = ()
    prompt: tuple[Scored | None, ...] = ()
    """With an answer's first event, where `sampling.prompt_logprobs` asks for it: one per token of the prompt."""
    reason: Reason = ""
    stop: str | int | None = None
    """The stop string, or the stop token's id, that ended it; None where its grammar did."""
    made: int = 0
    """With the last event: tokens that were computed for this answer, those included that are no part of the text."""
    cached: int = 0
    """With the last event: tokens of the prompt that were read for an earlier one."""
    error: TrueTuneError | None = None
    """With the reason `error`."""


@dataclass(frozen=True)
class Limits:
    """How much is taken on at once."""

    queue: int = 64
    """Requests that wait; beyond it `Busy`."""
    tokens: int = 0
    """Room for keys and values: rows × tokens of the longest one, answers included; 0 = slots × context."""
    chunk: int = 128
    """About so many tokens of new prompts are read between two tokens of running answers."""
    answers: int = 16
    """Most answers of one request."""
    stops: int = 16
    """Most stop strings of a request."""
    stop_length: int = 256
    """Most characters of a stop string."""
    on_device: int = 32
    """Adapters that are ready to compute with."""
    on_host: int = 128
    """Adapters in memory; the others are read from their folders when they are wanted."""
    names: int = 10_000
    """Adapters that are loaded by name."""
    grammars: int = 64
    """Compiled schemas that are kept."""


@dataclass(frozen=True)
class Loaded:
    """An adapter under its name."""

    name: str
    digest: str
    """sha256 over its files: the version."""
    mixed: bool
    """Whether its rows are computed together with others'. If not, it has changed more than LoRA's layers (whole
    modules, rows of the embedding), and each of its steps is one of its own."""
    seconds: float
    """What loading took."""


class Busy(Exception):
    """The queue is full; `retry` says in about how many seconds there may be room."""

    def __init__(self, retry: float) -> None:
        super().__init__(f"the queue is full; try again in {retry:.0f} s")
        self.retry = retry


class Closing(Exception):
    """No new requests are taken: the server ends."""


class Unknown(LookupError):
    """There is no adapter of this name."""
