"""Which of the rows that a model has written are kept, and why the others are not."""

from __future__ import annotations

import re
from collections.abc import Sequence

from truetune.augment.methods import Draft
from truetune.augment.seeds import plain
from truetune.data import near as likeness
from truetune.data.near import Sides
from truetune.data.rows import Conversation

CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffd]"
    r"|<\|[^|<>\n]{1,40}\|>|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|</?think>|<\uff5c[^<>\n]{1,40}\uff5c>"
)
"""What steers a terminal, parts of characters, and what begins and ends turns in the templates of known models."""
ASKING = re.compile("[?？؟]")
NUMBER = re.compile(r"\d+")
TIMES = 3
"""So many times longer or shorter is too much …"""
SLACK = 40
"""… beyond so many characters, for a short text may well grow."""


class Sieve:
    """Remembers what is asked already; `fault` tells a row that is not kept, and remembers one that is."""

    def __init__(self, questions: frozenset[str], special: re.Pattern[str] | None = None) -> None:
        """`questions` of all rows, as `plain` has them; `special` matches the control tokens of the model asked."""
        self.questions, self.special = questions, special
        self.written: set[str] = set()

    def fault(self, draft: Draft, keeps: bool) -> str:
        """A key of `words.REASONS`; empty where the row is kept. `keeps`: the question must mean what it meant."""
        if not draft.said:
            return "unanswered"
        if draft.conversation is None:
            return "form"
        question = asked(draft.conversation)
        found = self.text(draft, question, keeps) or self.repeated(draft, question)
        if not found:
            self.written.add(plain(question))
        return found

    def text(self, draft: Draft, question: str, keeps: bool) -> str:
        """What is wrong with the new texts in themselves."""
        pairs = [(question, [one.question for one in draft.origins])]
        if not keeps:
            pairs.append((draft.talk.turns[-1].content, [one.answer for one in draft.origins]))
        if any(self.control(text) for text, _ in pairs):
            return "control"
        if not all(alike(len(text), list(map(len, others))) for text, others in pairs):
            return "length"
        return changed(draft.origins[0].question, question) if keeps else ""

    def control(self, text: str) -> bool:
        return bool(CONTROL.search(text) or (self.special and self.special.search(text)))

    def repeated(self, draft: Draft, question: str) -> str:
        key = plain(question)
        if any(key == plain(one.question) or near(question, one.question) for one in draft.origins):
            return "same"
        if key in self.questions:
            return "known"
        return "twice" if key in self.written else ""


def near(one: str, other: str) -> bool:
    """Whether two questions are told apart by little more than a typing error."""
    sides = [Sides(likeness.plain([text]), b"", 0).sets() for text in (one, other)]
    return likeness.resemblance(*sides) >= likeness.ALIKE


def asked(conversation: Conversation) -> str:
    """The last thing that the user says."""
    return next(turn.content for turn in reversed(conversation.turns) if turn.role == "user")


def alike(length: int, others: Sequence[int]) -> bool:
    """Whether a length lies between a part of the shortest and some times the longest."""
    return min(others) / TIMES - SLACK <= length <= max(others) * TIMES + SLACK


def changed(old: str, new: str) -> str:
    """What shows that a question no longer means what it meant; small models answer where they should rephrase."""
    if ASKING.search(old) and not ASKING.search(new):
        return "no_question"
    return "numbers" if numbers(new) != numbers(old) else ""


def numbers(text: str) -> list[str]:
    return sorted(NUMBER.findall(text))
