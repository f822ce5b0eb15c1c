"""What rows have to do with each other, found before any is rendered: `survey` reads all of them once.

A row can equal another, be nearly the same, or ask what another asks. So it is a duplicate, stands on the wrong side
(contaminated), must be held out together with others, or contradicts them. Of each row some numbers are kept, no text.
"""

from __future__ import annotations

import hashlib
import re
import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from truetune.data.near import ALIKE, Sets, Sides, Sketches, Union, plain, resemblance, sides
from truetune.data.rows import Content, Conversation, Document, Labelled, Rated, Reject, Row, RowError, pack, unpack

VALIDATION, FOREIGN, TRAIN = 0, 1, 2
"""What a row is for, by right of way: a training row gives way to the same row of a validation file, or of a file that
is kept apart from the training rows (foreign)."""
EXAMPLES = 5
"""Pairs of a conflict that are named."""
COMPARED = 16
"""Rows of a group that a new one is compared with: the ones kept last."""

DIGEST = re.compile("[0-9a-f]{32}")

Places = NDArray[np.int64]


class Conflict(NamedTuple):
    """Rows that ask the same and are answered differently: how many, and the first two of some."""

    rows: int
    examples: list[str]


class Kin(NamedTuple):
    """A row that is nearly the same."""

    row: int
    similarity: float


@dataclass
class Survey:
    """Numbers of each row, by its index."""

    files: list[tuple[int, str]]
    """Index of each file's first row, in order, and its name."""
    lines: Places
    purpose: NDArray[np.int8]
    first: Places
    """The row with the same content that has right of way; the row itself where there is none."""
    alike: Places
    """The first row of those that may be nearly the same (`Sketches.groups`)."""
    opening: NDArray[np.uint64]
    """Of what is asked first."""
    own: NDArray[np.uint64]
    """Of the whole row."""
    made: NDArray[np.bool_]
    """A model wrote it."""
    pinned: NDArray[np.bool_]
    """A model wrote it, or has made more of it: it is never held out, or the training would know it in other words."""
    tainted: NDArray[np.bool_]
    """A model made it of a row that must not be trained on."""
    asked: NDArray[np.uint64]
    """Of all that is asked; shared only by rows with one right answer."""
    said: NDArray[np.uint64]
    """Of what is answered."""

    def start(self, purpose: int) -> int:
        """Index of the first row for this."""
        found = np.flatnonzero(self.purpose == purpose)
        return int(found[0]) if len(found) else 0

    def where(self, row: int) -> str:
        return f"{self.file(row)}:{unpack(int(self.lines[row]))}"

    def file(self, row: int) -> str:
        return self.files[bisect_right(self.files, row, key=lambda start: start[0]) - 1][1]

    def check(self, row: int, exact: bool) -> None:
        """Raises RowError: `data.generated`, `data.contaminated`, or `data.duplicate` where `exact` is wanted."""
        if self.made[row] and self.purpose[row] == VALIDATION:
            raise RowError("data.generated", "a model wrote the row: what is measured on are rows of people")
        if self.tainted[row] and self.purpose[row] == TRAIN:
            raise RowError("data.contaminated", "a model made the row from one that stands in the validation file")
        first = int(self.first[row])
        if first == row:
            return
        if self.purpose[row] == TRAIN and self.purpose[first] != TRAIN:
            raise RowError("data.contaminated", f"the row also stands in {self.where(first)}")
        if exact:
            raise RowError("data.duplicate", f"the row equals {self.where(first)}")

    def conflict(self, rows: Places) -> Conflict:
        """Which of these rows, in order, ask the same and are answered differently."""
        asked, said = self.asked[rows], self.said[rows]
        order = np.lexsort((said, asked))
        same = asked[order[1:]] == asked[order[:-1]]
        differ = np.flatnonzero(same & (said[order[1:]] != said[order[:-1]]))
        starts = np.flatnonzero(np.concatenate([[True], ~same])[: len(order)])
        sizes = np.diff(np.append(starts, len(order)))
        which = np.unique(np.searchsorted(starts, differ, side="right") - 1)
        pairs = np.sort(rows[np.stack([order[differ], order[differ + 1]], axis=1)], axis=1)
        first = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))[:EXAMPLES]].tolist()
        return Conflict(int(sizes[which].sum()), [f"{self.where(one)} and {self.where(other)}" for one, other in first])

    def groups(self) -> Places:
        """For each row a number that it shares with all that begin with the same question or may be nearly the same."""
        order = np.argsort(self.opening, kind="stable")
        same = self.opening[order[1:]] == self.opening[order[:-1]]
        union = Union(len(order))
        union.join(np.stack([order[:-1][same], order[1:][same]], axis=1))
        alone = np.arange(len(order))
        near = alone[self.alike != alone]
        union.join(np.stack([self.alike[near], near], axis=1))
        return union.roots()


class Surveyor:
    """Takes in rows in the order of their indexes and ends in a `Survey`; its sketches lie in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._sketches = Sketches(folder)
        self._files: list[tuple[int, str]] = []
        self._lines, self._purposes = array("q"), array("b")
        self._digests, self._keys = bytearray(), array("Q")
        self._made, self._children, self._origins = array("q"), array("q"), array("Q")

    def add(self, row: Row | Reject, content: Content | None, purpose: int) -> None:
        """`content` is None where the row can't be read."""
        if not self._files or self._files[-1][1] != row.file:
            self._files.append((row.index, row.file))
        self._lines.append(pack(row.line))
        self._purposes.append(purpose)
        if content is None:
            self._digests += _number(f"row {row.index}").to_bytes(16, "little")
            self._keys.extend((_number(f"row {row.index}"),) * 3)
            return
        if isinstance(row, Row) and (how := row.generated) is not None:
            self._made.append(row.index)
            for origin in _origins(how):
                self._children.append(row.index)
                self._origins.append(origin)
        found = sides(content)
        self._digests += content.digest
        self._keys.extend(_keys(content, found))
        self._sketches.add(row.index, found)

    def finish(self) -> Survey:
        total = len(self._lines)
        purpose = np.frombuffer(self._purposes, np.int8)
        opening, asked, said = np.frombuffer(self._keys, np.uint64).reshape(-1, 3).T
        digests = np.frombuffer(self._digests, np.uint64).reshape(-1, 2)
        lines = np.frombuffer(self._lines, np.int64)
        first, alike = _first(digests, purpose), self._sketches.groups(total)
        opening, own = np.ascontiguousarray(opening), np.ascontiguousarray(digests[:, 0])
        marks = self._marks(own, purpose)
        asked, said = np.ascontiguousarray(asked), np.ascontiguousarray(said)
        return Survey(self._files, lines, purpose, first, alike, opening, own, *marks, asked, said)

    def _marks(
        self, own: NDArray[np.uint64], purpose: NDArray[np.int8]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
        """`made`, `pinned` and `tainted` of the survey."""
        made, tainted = np.zeros(len(own), bool), np.zeros(len(own), bool)
        made[np.array(self._made, np.int64)] = True
        origins = np.array(self._origins, np.uint64)
        tainted[np.array(self._children, np.int64)[np.isin(origins, own[purpose != TRAIN])]] = True
        return made, made | np.isin(own, origins), tainted


class Near:
    """Proves that a row is nearly the same as one that is used. The shingles of used rows that may be asked for again
    lie in a file in `folder`."""

    def __init__(self, survey: Survey, folder: Path) -> None:
        self.survey = survey
        self._left = np.bincount(survey.alike, minlength=len(survey.alike))
        self._kept: dict[int, list[tuple[int, int, int, int, int]]] = {}
        self._shingles = (folder / "kept").open("w+b")

    def find(self, row: int, content: Content) -> Kin | None:
        """A row that was `keep`t and is nearly the same."""
        kept = self._kept.get(int(self.survey.alike[row]), ())
        if not kept:
            return None
        found = sides(content).sets()
        for other, start, prompt, answer, mark in reversed(kept[-COMPARED:]):
            self._shingles.seek(start)
            asked, said = (np.frombuffer(self._shingles.read(8 * count), np.uint64) for count in (prompt, answer))
            similarity = resemblance(found, Sets(asked, said, mark))
            if similarity >= ALIKE:
                return Kin(other, similarity)
        return None

    def keep(self, row: int, content: Content) -> None:
        """Later rows are compared with this one."""
        if self.wanted(row):
            found = sides(content).sets()
            entry = (row, self._shingles.seek(0, 2), len(found.prompt), len(found.answer), found.mark)
            self._shingles.write(found.prompt.tobytes() + found.answer.tobytes())
            self._kept.setdefault(int(self.survey.alike[row]), []).append(entry)

    def wanted(self, row: int) -> bool:
        """Whether rows that may be nearly the same are still to come."""
        return bool(self._left[self.survey.alike[row]] > 1)

    def done(self, row: int) -> None:
        """This row has its fate; a group of which none is left to come is forgotten."""
        group = int(self.survey.alike[row])
        self._left[group] -= 1
        if not self._left[group]:
            self._kept.pop(group, None)

    def close(self) -> None:
        self._shingles.close()


def _origins(how: Mapping[str, Any]) -> Iterator[int]:
    """What `Survey.own` has for the rows that a row is made from, as far as it names them."""
    named = how.get("from")
    for text in named if isinstance(named, list) else ():
        if isinstance(text, str) and DIGEST.fullmatch(text):
            yield int.from_bytes(bytes.fromhex(text)[:8], sys.byteorder)


def _keys(content: Content, found: Sides) -> tuple[int, int, int]:
    """Of what is asked first, all that is asked, and what is answered. Only rows with one right answer share the
    second."""
    if isinstance(content, Document):
        own = _number(found.answer)
        return own, own, 0
    if isinstance(content, Labelled):
        asked = _number(found.prompt)
        return asked, asked, found.mark
    if isinstance(content, Conversation):
        asked = _number(found.prompt)
        alone = _first_answer(content) >= len(content.turns) - 1  # then what is asked first is all that is asked
        return asked if alone else _opening(content), asked, _number(found.answer)
    conversation = content.conversation if isinstance(content, Rated) else content.sides()[0]
    return _opening(conversation), int.from_bytes(content.digest[:8], "little"), 0


def _first_answer(conversation: Conversation) -> int:
    """The place of the first turn of the assistant."""
    turns = conversation.turns
    return next((place for place, turn in enumerate(turns) if turn.role == "assistant"), len(turns))


def _opening(conversation: Conversation) -> int:
    return _number(plain([turn.content for turn in conversation.turns[: _first_answer(conversation)]]))


def _number(value: str | bytes) -> int:
    data = value.encode() if isinstance(value, str) else value
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _first(digests: NDArray[np.uint64], purpose: NDArray[np.int8]) -> Places:
    """For each row the first of those with the same digest, by right of way."""
    order = np.lexsort((purpose, digests[:, 0], digests[:, 1]))
    ranked = digests[order]
    new = np.concatenate([[True], (ranked[1:] != ranked[:-1]).any(axis=1)])[: len(order)]
    starts = np.flatnonzero(new)
    first = np.empty(len(order), np.int64)
    first[order] = np.repeat(order[starts], np.diff(np.append(starts, len(order))))
    return first
