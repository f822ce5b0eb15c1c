"""A request on its way: its answers, the adapter's version it keeps, and how it stands."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from truetune.engines.decoder import Sampling
from truetune.models.tokenizer import Tokenizer
from truetune.serve.adapters import Version
from truetune.serve.answer import Answer
from truetune.serve.handle import Handle
from truetune.serve.requests import Request, Ruled


@dataclass(frozen=True)
class Named:
    """What a name stands for."""

    version: Version
    tokenizer: Tokenizer


@dataclass(eq=False)
class Job:
    """A request from its submission to its last event."""

    request: Request
    named: Named | None
    tokenizer: Tokenizer
    since: float
    """On the monotonic clock, in seconds."""
    handle: Handle = field(init=False)
    answers: dict[int, Answer] = field(init=False)
    """Those that have not ended, by choice."""
    rules: dict[int, Ruled] = field(default_factory=dict)
    slots: dict[int, int] = field(default_factory=dict)
    """Choice -> slot, while it is decoded."""
    cancelled: bool = False
    cached: int = 0

    def __post_init__(self) -> None:
        request = self.request
        self.answers = {i: Answer(i, self.tokenizer, request.stops) for i in range(request.n)}
        if request.grammar:
            self.rules = {i: request.grammar.begin(request.sampling.stops) for i in range(request.n)}

    @property
    def adapter(self) -> str | None:
        """What the decoder calls it."""
        return self.named.version.digest if self.named else None

    def sampling(self, choice: int) -> Sampling:
        chosen = self.request.sampling
        return replace(chosen, seed=chosen.seed + choice)

    def tokens(self, context: int) -> int:
        """Most tokens that one of its rows can have."""
        return min(len(self.request.ids) + self.request.sampling.max_new_tokens, context)

    def deadline(self) -> float:
        return self.since + self.request.timeout if self.request.timeout is not None else float("inf")
