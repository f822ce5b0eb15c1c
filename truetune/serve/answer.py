"""One answer as it is written: tokens in, events out. Text is told when it is certain: a character when it is whole,
and what may be the beginning of a stop string when it is not one."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from truetune.engines.decoder import Token
from truetune.evaluate.voice import Text
from truetune.models.tokenizer import Tokenizer
from truetune.serve.requests import Event, Said


@dataclass(frozen=True)
class Piece:
    """A token and where its text begins and ends in the answer."""

    said: Said
    start: int
    end: int


class Answer:
    """The text of one answer, and how far it was told."""

    def __init__(self, choice: int, tokenizer: Tokenizer, stops: Sequence[str]) -> None:
        self.choice, self.stops = choice, stops
        self.text = Text(tokenizer)
        self.told = 0
        """Characters that were told."""
        self.held: deque[Piece] = deque()
        self.made = 0

    def take(self, token: Token) -> Event | None:
        """What there is to tell now that the answer goes on with this token, if anything."""
        self.made += 1
        start = len(self.text.said)
        if token.reason != "stop":
            self.text.add(token.id)
        if token.reason:
            self.text.end()
        if token.reason != "stop":
            self.held.append(Piece(Said(token.id, token.scored), start, len(self.text.said)))
        return self.event(token)

    def event(self, token: Token) -> Event | None:
        cut, stop = self.ended()
        if stop is not None:
            return self.last(cut, Event(self.choice, prompt=token.prompt, reason="stop", stop=stop))
        if token.reason:
            by = token.id if token.reason == "stop" else None
            whole = len(self.text.said)
            return self.last(whole + 1, Event(self.choice, prompt=token.prompt, reason=token.reason, stop=by))
        sure = len(self.text.said) - self.doubtful()
        text = self.text.said[self.told : sure]
        tokens = self.until(sure)
        self.told = sure
        return Event(self.choice, text, tokens, token.prompt) if text or tokens or token.prompt else None

    def ended(self) -> tuple[int, str | None]:
        """Where the first stop string begins, and which one it is."""
        rest = self.text.said[self.told :]
        found = [(rest.find(stop), stop) for stop in self.stops if stop in rest]
        if not found:
            return 0, None
        at, stop = min(found)
        return self.told + at, stop

    def doubtful(self) -> int:
        """How many of the last characters may be the beginning of a stop string."""
        rest = self.text.said[self.told :]
        return max((begun(rest, stop) for stop in self.stops), default=0)

    def until(self, sure: int) -> tuple[Said, ...]:
        """The tokens that are told with the text up to there."""
        told = []
        while self.held and self.held[0].end <= sure:
            told.append(self.held.popleft().said)
        return tuple(told)

    def last(self, cut: int, event: Event) -> Event:
        """The last event, with what was held of the text before `cut`, and the tokens that begin before it."""
        tokens = tuple(piece.said for piece in self.held if piece.start < cut)
        text = self.text.said[self.told : cut]
        self.held.clear()
        self.told += len(text)
        return Event(self.choice, text, tokens, event.prompt, event.reason, event.stop, self.made)

    def whole(self, before: Event | None) -> Event:
        """The last event of an answer that its grammar ends, with what would be told before it."""
        self.text.end()
        rest = self.last(len(self.text.said) + 1, Event(self.choice, reason="stop"))
        if before is None:
            return rest
        return replace(rest, text=before.text + rest.text, tokens=before.tokens + rest.tokens, prompt=before.prompt)


def begun(text: str, stop: str) -> int:
    """The length of the longest end of `text` that `stop`, which is not in it, begins with."""
    most = min(len(stop) - 1, len(text))
    return next((size for size in range(most, 0, -1) if text.endswith(stop[:size])), 0)
