"""The rows that more rows are made from: conversations, each with its place, and what they ask."""

from __future__ import annotations

import hashlib
import heapq
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from truetune.data.formats import Format
from truetune.data.intake import read
from truetune.data.rows import Conversation, Reject, Row, RowError, Turn
from truetune.data.sources import Source
from truetune.data.split import Amount, size

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
    def opening(self) -> str:
        """The first question."""
        return next(turn.content for turn in self.conversation.turns if turn.role == "user")

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

    form: Format
    """How they are read."""
    rows: list[Seed]
    """In the order of the files."""
    questions: frozenset[str]
    """All that the files ask, as `plain` has it; of rows that are no seeds, too."""
    counts: Counter[str] = field(default_factory=Counter)
    """read = seeds + spared + not_chosen + rejected + generated + repeated + not_conversations + not_simple"""


def gather(
    form: Format, files: Sequence[Source], *, limit: int | None, seed: int, simple: bool, spare: Amount | str | None
) -> Seeds:
    """The rows that are made more of, at most `limit`; `simple` leaves out all but single questions with an answer.

    As many rows as `spare` would hold out are spared: what a training measures on must not come back in other words.
    All that begin with the same question are spared together, and both choices are made by hashes of seed and question,
    so that they do not depend on the order of the rows. Raises InputError (`data.validation`).

    Memory grows with the rows that are kept, and by a few bytes and a text for every question.
    """
    counts: Counter[str] = Counter()
    questions: set[str] = set()
    ranks = array("Q")
    found = ranked(usable(form, files, simple, counts, questions), seed, ranks)
    chosen = sorted(found) if limit is None else heapq.nsmallest(limit, found)
    border = spared(ranks, counts, spare)
    rows = sorted((one for rank, _, one in chosen if rank < border), key=lambda one: one.index)
    counts["seeds"], counts["spared"] = len(rows), sum(rank >= border for rank in ranks)
    counts["not_chosen"] = len(ranks) - counts["seeds"] - counts["spared"]
    return Seeds(form, rows, frozenset(questions), counts)


def ranked(found: Iterable[Seed], seed: int, ranks: array[int]) -> Iterator[tuple[int, int, Seed]]:
    """(rank, index, row); the ranks are remembered."""
    for one in found:
        data = f"{seed}:{plain(one.opening)}".encode()
        rank = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")
        ranks.append(rank)
        yield rank, one.index, one


def spared(ranks: array[int], counts: Counter[str], spare: Amount | str | None) -> int:
    """The rank from which rows are spared. Rows that the method can't use are not made more of anyway."""
    count = size(len(ranks) + counts["not_simple"], spare) - counts["not_simple"]
    return sorted(ranks)[-count] if 0 < count <= len(ranks) else 2**64


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
        return form.of(row.file).read(row.value) if isinstance(row, Row) else None
    except RowError:
        return None


def made(row: Row | Reject) -> bool:
    return isinstance(row, Row) and row.generated is not None


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
