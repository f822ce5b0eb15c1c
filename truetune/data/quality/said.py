"""A row as what is said in it: the one shape that all checks look at, whatever kind of content it was."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

import orjson

from truetune.data.quality.limits import EXCERPT
from truetune.data.rows import Content, Conversation, Document, Labelled, Preference, Rated, Turn

ODD = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u200b\u202a-\u202e\u2060\u2066-\u2069\ufeff\ufff9-\ufffb\U000e0020-\U000e007f]"
)
"""What nobody sees, or what turns the line: an excerpt writes it out."""
DIGITS = "0123456789"


@dataclass(frozen=True)
class Said:
    """`answers` are what a model is to say; a document is an answer to nothing, a text with a label a prompt only."""

    prompts: tuple[str, ...]
    answers: tuple[str, ...]
    asked: tuple[tuple[str, str], ...] = ()
    """Questions, each with its answer."""
    prose: bool = True
    """Whether an answer is a whole one; a document may begin and end anywhere."""

    @cached_property
    def text(self) -> str:
        """Everything, for checks that don't ask who says it."""
        return "\n".join((*self.prompts, *self.answers))

    @cached_property
    def ascii(self) -> bool:
        return self.text.isascii()

    @cached_property
    def digits(self) -> int:
        """How many there are in all: numbers of accounts have at least nine."""
        return sum(map(self.text.count, DIGITS))


def said(content: Content) -> Said:
    if isinstance(content, Document):
        return Said((), (content.text,), prose=False)
    if isinstance(content, Labelled):
        return Said((content.text, content.pair) if content.pair else (content.text,), ())
    if isinstance(content, Preference):
        return _talk(content.prompt, (content.chosen, content.rejected))
    talk = content.conversation if isinstance(content, Rated) else content
    assert isinstance(talk, Conversation)
    return _talk((), (talk.turns,))


def _talk(before: tuple[Turn, ...], sides: tuple[tuple[Turn, ...], ...]) -> Said:
    prompts = [turn.content for turn in before]
    answers, asked = [], []
    for side in sides:
        last = before[-1] if before else None
        for turn in side:
            if turn.role == "assistant" and turn.content:
                answers.append(turn.content)
                if last is not None and last.role == "user":
                    asked.append((last.content, turn.content))
            else:
                prompts.append(turn.content)
            if turn.calls:
                prompts.append(orjson.dumps(turn.calls).decode())
            last = turn
    return Said(tuple(prompts), tuple(answers), tuple(asked))


def excerpt(text: str, start: int = 0, stop: int = 0) -> str:
    """One line of a text around a place in it."""
    room = max(0, EXCERPT - (stop - start)) // 2
    left, right = max(0, start - room), min(len(text), stop + room if stop else EXCERPT)
    shown = " ".join(ODD.sub(lambda found: f"\\u{ord(found[0]):04x}", text[left:right]).split())
    return f"{'…' if left else ''}{shown}{'…' if right < len(text) else ''}"
