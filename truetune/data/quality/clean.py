"""Repairs that are safe: what is mended is no text that somebody wrote, and says what it did."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import replace

from truetune.data.quality.characters import CONTROL, INVISIBLE, TURNING, recode
from truetune.data.rows import Content, Conversation, Document, Labelled, Preference, Turn

BREAKS = re.compile("\r\n?|[\x85\u2028\u2029]")
ESCAPES = re.compile("\x1b\\[[0-?]*[ -/]*[@-~]")
"""Colours and movements of a terminal (ECMA-48, control sequences)."""


def clean(content: Content) -> tuple[Content, list[str]]:
    """The content with its texts mended, and the names of what was done: `mojibake`, `line_breaks`,
    `control_characters`, `invisible_characters`, `normalized`, `trailing_space`."""
    done: dict[str, None] = {}

    def mend(text: str) -> str:
        for name, step in STEPS:
            mended = step(text)
            if mended != text:
                done[name] = None
            text = mended
        return text

    return _apply(content, mend), list(done)


def _apply(content: Content, mend: Callable[[str], str]) -> Content:
    def turns(given: tuple[Turn, ...]) -> tuple[Turn, ...]:
        return tuple(replace(turn, content=mend(turn.content)) for turn in given)

    if isinstance(content, Document):
        return Document(mend(content.text))
    if isinstance(content, Labelled):
        return Labelled(mend(content.text), tuple(map(mend, content.labels)), mend(content.pair))
    if isinstance(content, Preference):
        chosen, rejected = turns(content.chosen), turns(content.rejected)
        return replace(content, prompt=turns(content.prompt), chosen=chosen, rejected=rejected)
    if isinstance(content, Conversation):
        return replace(content, turns=turns(content.turns))
    talk = content.conversation
    return replace(content, conversation=replace(talk, turns=turns(talk.turns)))


def _breaks(text: str) -> str:
    return BREAKS.sub("\n", text) if "\r" in text or not text.isascii() else text


def _unseen(text: str) -> str:
    """Marks that turn the line stay: in Arabic and Hebrew somebody may have meant them."""
    return INVISIBLE.sub(lambda found: found[0] if TURNING.match(found[0]) else "", text)


def _normal(text: str) -> str:
    return unicodedata.normalize("NFC", text)


STEPS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("mojibake", recode),
    ("line_breaks", _breaks),
    ("control_characters", lambda text: CONTROL.sub("", ESCAPES.sub("", text))),
    ("invisible_characters", _unseen),
    ("normalized", _normal),
    ("trailing_space", str.rstrip),
)
"""In the order in which one makes room for the next."""
