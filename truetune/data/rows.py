"""What rows are on their way from a file to an example: raw, then a conversation or a document, or refused."""

from __future__ import annotations

import hashlib
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
    """One message. `weight` multiplies the loss of an assistant's turn; 0 = context only."""

    role: str
    content: str
    weight: float = 1.0


@dataclass(frozen=True)
class Conversation:
    turns: tuple[Turn, ...]

    def messages(self) -> list[dict[str, str]]:
        """As a chat template wants them."""
        return [{"role": turn.role, "content": turn.content} for turn in self.turns]

    @property
    def digest(self) -> bytes:
        """Equal for equal conversations, whatever columns they were written in."""
        return _digest([[turn.role, turn.content, turn.weight] for turn in self.turns])


@dataclass(frozen=True)
class Document:
    text: str

    @property
    def digest(self) -> bytes:
        return _digest(self.text)


Content = Conversation | Document


def _digest(value: Any) -> bytes:
    return hashlib.sha256(orjson.dumps(value)).digest()[:16]
