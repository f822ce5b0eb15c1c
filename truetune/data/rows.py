"""What rows are on their way from a file to an example: raw, then content of some kind, or refused."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

RAW_LIMIT = 2000
"""Characters of a refused row that are kept, so that a person finds it again."""


class RowError(Exception):
    """This row can't be used: a stable code, and the reason in a sentence. It becomes a `Reject`; the rest goes on."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


GENERATED = "generated"
"""The key of rows that a model wrote: `{method, model, seed, from}`, with the digests of what they are made from."""


class Place(int):
    """The line of an array's element that shares it with others; its number is shown, too: `rows.json:1#21`."""

    element: int

    def __new__(cls, line: int, element: int) -> Place:
        place = super().__new__(cls, line)
        place.element = element
        return place

    def __str__(self) -> str:
        return f"{int(self)}#{self.element}"


ELEMENT = 2**32
"""What the number of an element counts in a packed place."""


def pack(line: int) -> int:
    """A line, or a Place with its element, as one number of 64 bits."""
    return line + (line.element * ELEMENT if isinstance(line, Place) else 0)


def unpack(packed: int) -> int:
    """The line or the Place that `pack` was given."""
    element, line = divmod(packed, ELEMENT)
    return Place(line, element) if element else line


@dataclass(frozen=True)
class Row:
    """A row as it stands in a file. `index` counts the rows of all files, `line` is where it begins (from 1)."""

    index: int
    file: str
    line: int
    value: dict[str, Any]

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"

    @property
    def generated(self) -> Mapping[str, Any] | None:
        """How a model wrote the row; None where people did. Columns of the same name hold other things."""
        how = self.value.get(GENERATED)
        return how if isinstance(how, Mapping) and "method" in how else None

    def reject(self, error: RowError) -> Reject:
        raw = orjson.dumps(self.value, default=str).decode()
        return Reject(self.index, self.file, self.line, error.code, error.reason, raw[:RAW_LIMIT])


@dataclass(frozen=True)
class Reject:
    """A row that is not used, and why."""

    index: int
    file: str
    line: int
    code: str
    reason: str
    raw: str

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"

    def brief(self) -> dict[str, str]:
        return {"where": self.where, "code": self.code, "reason": self.reason}


@dataclass(frozen=True)
class Turn:
    """One message. `weight` multiplies the loss of an assistant's turn; 0 = context only.

    `calls` are tool calls in OpenAI's notation, `{"id"?, "type": "function", "function": {"name", "arguments": {…}}}`;
    a turn of the role `tool` answers one of them, by `name` or `call_id`.
    """

    role: str
    content: str
    weight: float = 1.0
    calls: tuple[dict[str, Any], ...] = ()
    name: str = ""
    call_id: str = ""

    def message(self) -> dict[str, Any]:
        """In OpenAI's notation; what is empty is left out, but the content."""
        more = {"tool_calls": list(self.calls), "name": self.name, "tool_call_id": self.call_id}
        return {"role": self.role, "content": self.content, **{key: value for key, value in more.items() if value}}

    def plain(self) -> list[Any]:
        """What tells it from other turns; the same as ever for turns without tools."""
        own = [self.role, self.content, self.weight]
        return [*own, self.calls, self.name, self.call_id] if self.calls or self.name or self.call_id else own


@dataclass(frozen=True)
class Conversation:
    """`tools` are the definitions of what may be called, in OpenAI's notation."""

    turns: tuple[Turn, ...]
    tools: tuple[dict[str, Any], ...] = ()

    def messages(self) -> list[dict[str, Any]]:
        """As a chat template wants them."""
        return [turn.message() for turn in self.turns]

    @property
    def digest(self) -> bytes:
        """Equal for equal conversations, whatever columns they were written in."""
        turns = [turn.plain() for turn in self.turns]
        return _digest({"turns": turns, "tools": self.tools} if self.tools else turns)


@dataclass(frozen=True)
class Document:
    text: str

    @property
    def digest(self) -> bytes:
        return _digest(self.text)


@dataclass(frozen=True)
class Preference:
    """Two answers to the same prompt, of which the first is the better one."""

    prompt: tuple[Turn, ...]
    chosen: tuple[Turn, ...]
    rejected: tuple[Turn, ...]
    tools: tuple[dict[str, Any], ...] = ()

    def sides(self) -> tuple[Conversation, Conversation]:
        """The whole conversation with the better answer, and that with the worse."""
        chosen, rejected = (self.prompt + side for side in (self.chosen, self.rejected))
        return Conversation(chosen, self.tools), Conversation(rejected, self.tools)

    @property
    def digest(self) -> bytes:
        return _digest({"preference": [side.digest.hex() for side in self.sides()]})


@dataclass(frozen=True)
class Rated:
    """A conversation whose last answer somebody found good or bad (KTO)."""

    conversation: Conversation
    desirable: bool

    @property
    def digest(self) -> bytes:
        return _digest({"rated": self.conversation.digest.hex(), "desirable": self.desirable})


@dataclass(frozen=True)
class Labelled:
    """A text, or a pair of them, and the names of its classes; several, or none, where rows have lists of labels."""

    text: str
    labels: tuple[str, ...]
    pair: str = ""

    @property
    def digest(self) -> bytes:
        return _digest({"text": self.text, "pair": self.pair, "labels": self.labels})


Content = Conversation | Document | Preference | Rated | Labelled


def _digest(value: Any) -> bytes:
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).digest()[:16]
