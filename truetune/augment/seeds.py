"""The rows that more rows are made from: conversations, each with its place, and what they ask."""

from __future__ import annotations

import hashlib
import heapq
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from truetune.data.formats import Format
from truetune.data.prepare import read
from truetune.data.rows import Conversation, Reject, Row, RowError, Turn
from truetune.data.sources import Source

GENERATED = "generated"
"""The key of a row that a model has written."""
WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Seed:
    """A conversation that ends with an answer, and where it stands."""

    where: str
    index: int
    conversation: Conversation

    @property
    def place(self) -> int:
        """Of the question, among the turns: the last thing that the user says."""
        turns = self.conversation.turns
        return max(place for place, turn in enumerate(turns) if turn.role == "user")

    @property
    def question(self) -> str:
        return self.conversation.turns[self.place].content

    @property
    def answer(self) -> str:
        return self.conversation.turns[-1].content

    @property
    def simple(self) -> bool:
        """Whether it is one question and its answer, which say all by themselves."""
        turns = self.conversation.turns
        roles = [turn.role for turn in turns if turn.role != "system"]
        return roles == ["user", "assistant"] and not turns[-1].calls

    def asked(self, question: str) -> Conversation:
        """The same conversation with its question in these words."""
        turns = list(self.conversation.turns)
        turns[self.place] = replace(turns[self.place], content=question)
        return replace(self.conversation, turns=tuple(turns))

    def another(self, question: str, answer: str) -> Conversation:
        """Another question and answer under the same system message."""
        system = tuple(turn for turn in self.conversation.turns if turn.role == "system")
        return Conversation((*system, Turn("user", question), Turn("assistant", answer)))


@dataclass
class Seeds:
    """What was found in the files."""

    rows: list[Seed]
    """In the order of the files."""
    questions: frozenset[str]
    """All that the files ask, as `plain` has it; of rows that are no seeds, too."""
    counts: Counter[str] = field(default_factory=Counter)
    """read = seeds + not_chosen + rejected + generated + repeated + not_conversations + not_simple"""


def gather(form: Format, files: Sequence[Source], *, limit: int | None, seed: int, simple: bool) -> Seeds:
    """The rows that are made more of. Of more than `limit` those with the lowest hash of seed and content are taken,
    so that the choice does not depend on their order. `simple` leaves out all but single questions with an answer.

    Memory grows with the rows that are kept, and by 16 bytes and a text's key for every question.
    """
    counts: Counter[str] = Counter()
    questions: set[str] = set()
    found = usable(form, files, simple, counts, questions)
    if limit is None:
        rows = list(found)
    else:
        chosen = heapq.nsmallest(limit, found, key=lambda one: rank(one, seed))
        rows = sorted(chosen, key=lambda one: one.index)
    fates = ("rejected", "generated", "repeated", "not_conversations", "not_simple")
    counts["seeds"] = len(rows)
    counts["not_chosen"] = counts["read"] - len(rows) - sum(counts[fate] for fate in fates)
    return Seeds(rows, frozenset(questions), counts)


def rank(one: Seed, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:".encode() + one.conversation.digest).digest()


def usable(
    form: Format, files: Sequence[Source], simple: bool, counts: Counter[str], questions: set[str]
) -> Iterator[Seed]:
    """Conversations, each once; every row is counted, and what it asks is remembered."""
    seen: set[bytes] = set()
    for row in read(files):
        counts["read"] += 1
        content = contents(form, row)
        if content is None:
            counts["rejected"] += 1
            continue
        if not isinstance(content, Conversation) or not any(turn.role == "user" for turn in content.turns):
            counts["not_conversations"] += 1
            continue
        one = Seed(row.where, row.index, content)
        questions.add(plain(one.question))
        if fate := aside(one, made(row), simple, seen):
            counts[fate] += 1
            continue
        seen.add(content.digest)
        yield one


def contents(form: Format, row: Row | Reject) -> Any:
    """What a row says, None where it can't be used."""
    try:
        return form.read(row.value) if isinstance(row, Row) else None
    except RowError:
        return None


def made(row: Row | Reject) -> bool:
    return isinstance(row, Row) and GENERATED in row.value


def aside(one: Seed, generated: bool, simple: bool, seen: set[bytes]) -> str:
    """Why nothing is made of a conversation; empty where it is a seed."""
    if generated:
        return "generated"
    if one.conversation.digest in seen:
        return "repeated"
    return "not_simple" if simple and not one.simple else ""


def plain(text: str) -> str:
    """What two texts have in common that differ in case, punctuation and spaces only."""
    words = WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    return " ".join(words) or text.strip()
