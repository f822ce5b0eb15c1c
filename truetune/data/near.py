"""Rows that are nearly the same: which of all rows look alike, found without comparing each with each.

Two rows are near where both what is asked and what is answered are: a Jaccard similarity of at least `ALIKE` between
the sets of their 5-byte shingles, and the same numbers and labels. So six wordings of one question stay six rows, and
so do sums that differ in a digit.

MinHash (Broder 1997) estimates the similarity, one byte per slot (b-bit minwise hashing, Li and König 2010); rows meet
that share a band of slots (locality-sensitive hashing; Leskovec, Rajaraman and Ullman, Mining of Massive Datasets,
chapter 3). Bands and slots lie on disk and a band is sorted at a time, so memory grows by a few bytes for each row.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
import rensa
from numpy.typing import NDArray

from truetune.data.rows import Content, Conversation, Document, Labelled, Preference, Rated, Turn

ALIKE = 0.8
"""Jaccard similarity from which two sides are near."""
LIKELY = 0.6
"""Estimate from which it is worth a look: three standard deviations of `SLOTS` slots below `ALIKE`."""
SHINGLE = 5
"""Bytes of a shingle: one typing error in a short question leaves it near, another word does not."""
LONGEST = 2**16
"""Characters of a side that are looked at."""
SLOTS = 32
"""Of each side, for the estimate."""
BANDS, WIDTH = 21, 6
"""Of the slots of both sides together: rows as alike as `ALIKE` share a band with a probability of
1 - (1 - 0.8^6)^21 = 0.998."""
WHOLE = 128
"""Slots of both sides together; rensa is quickest with a power of two."""
FLUSH = 512
"""Rows, or KiB of text, that are sketched in one call."""
BUFFER = 2**16
"""Bytes that are written to a file at once."""
PAIRS = 2**15
"""Pairs that are estimated in one call."""
SEED = 5
DIGITS = bytes(byte if byte in b"0123456789" else 32 for byte in range(256))
"""Leaves the numbers of a text."""

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Sides:
    """What is compared of a row: its two texts, without regard to case and spacing, and what must be equal."""

    prompt: bytes
    answer: bytes
    mark: int

    def sets(self) -> Sets:
        return Sets(np.unique(shingles([self.prompt])[0]), np.unique(shingles([self.answer])[0]), self.mark)


@dataclass(frozen=True, eq=False)
class Sets:
    """The shingles of both sides, each once and in order."""

    prompt: NDArray[np.uint64]
    answer: NDArray[np.uint64]
    mark: int


def sides(content: Content) -> Sides:
    """The sides of a row; a document is all answer, a labelled text all prompt."""
    if isinstance(content, Document):
        return Sides(b"", plain([content.text]), 0)
    if isinstance(content, Labelled):
        return _sides([content.text, content.pair], [], content.labels)
    if isinstance(content, Preference):
        answers = [text for turn in (*content.chosen, *content.rejected) for text in _said(turn)]
        return _sides([turn.content for turn in content.prompt], answers, ())
    if isinstance(content, Rated):
        return _talk(content.conversation, (str(content.desirable),))
    return _talk(content, ())


def plain(texts: Sequence[str]) -> bytes:
    return " ".join("\n".join(texts)[:LONGEST].casefold().split()).encode("utf-8", "replace")


def resemblance(one: Sets, other: Sets) -> float:
    """Jaccard similarity of the sides that are less alike; 0 where numbers or labels differ. Below `ALIKE`, where
    it makes no difference, it may be less."""
    if one.mark != other.mark:
        return 0.0
    prompt = _jaccard(one.prompt, other.prompt)
    return min(prompt, _jaccard(one.answer, other.answer)) if prompt >= ALIKE else 0.0


class Sketches:
    """Takes in the sides of rows in order and says which look alike. `folder` is empty, and the caller's to remove."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._slots = (folder / "slots").open("wb", BUFFER)
        self._bands = [(folder / f"band-{number}").open("wb", BUFFER) for number in range(BANDS)]
        self._places: list[NDArray[np.int64]] = []
        self._pending: list[tuple[int, Sides]] = []
        self._size = 0
        self._thread = ThreadPoolExecutor(1)
        self._work: Future[None] | None = None

    def add(self, row: int, found: Sides) -> None:
        self._pending.append((row, found))
        self._size += len(found.prompt) + len(found.answer)
        if len(self._pending) >= FLUSH or self._size >= FLUSH * 1024:
            self._flush()

    def groups(self, total: int) -> Labels:
        """For each of `total` rows the number of its group: the first row of those that look alike, through others."""
        self._flush()
        self.close()
        rows = np.concatenate(self._places) if self._places else np.zeros(0, np.int64)
        union = Union(len(rows))
        with (self.folder / "slots").open("rb") as slots:
            for number in range(BANDS):
                keys = np.fromfile(self.folder / f"band-{number}", np.uint64)
                for pairs in _meetings(keys, union.roots()):
                    union.join(pairs[_alike(pairs, slots.fileno())])
        labels = np.arange(total, dtype=np.int64)
        labels[rows] = rows[union.roots()]
        return labels

    def close(self) -> None:
        """Wait for what is being sketched."""
        with self._thread:
            self._wait()
        for stream in (self._slots, *self._bands):
            stream.close()

    def _flush(self) -> None:
        """Sketch what is pending while the next rows are read."""
        self._wait()
        if self._pending:
            rows, found = zip(*self._pending, strict=True)
            self._places.append(np.array(rows, np.int64))
            self._work = self._thread.submit(self._sketch, found)
            self._pending, self._size = [], 0

    def _wait(self) -> None:
        if self._work:
            self._work.result()
            self._work = None

    def _sketch(self, found: Sequence[Sides]) -> None:
        marks = np.array([each.mark for each in found], np.uint64)
        tokens, stops = shingles([text for each in found for text in (each.prompt, each.answer)])
        whole = signatures(tokens, np.ascontiguousarray(stops[::2]), WHOLE)
        for keys, stream in zip(_keys(whole, marks), self._bands, strict=True):
            stream.write(keys.tobytes())
        self._slots.write(signatures(tokens, stops, SLOTS).astype(np.uint8).tobytes())


class Union:
    """Joins numbers from 0 to below `count` into sets; the smallest number of a set stands for it."""

    def __init__(self, count: int) -> None:
        self._parent = np.arange(count, dtype=np.int64)

    def join(self, pairs: NDArray[np.int64]) -> None:
        for one, other in pairs.tolist():
            first, second = self._root(one), self._root(other)
            self._parent[max(first, second)] = min(first, second)

    def roots(self) -> Labels:
        while not np.array_equal(above := self._parent[self._parent], self._parent):
            self._parent = above
        return self._parent.copy()

    def _root(self, place: int) -> int:
        while (above := int(self._parent[place])) != place:
            self._parent[place] = self._parent[above]
            place = above
        return place


def signatures(tokens: NDArray[np.uint64], stops: NDArray[np.uint64], slots: int) -> NDArray[np.uint32]:
    """MinHash of each stretch of shingles [stretches, slots]."""
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(tokens, stops, slots, SEED)
    return np.array(matrix.to_rows(), np.uint32)


def shingles(texts: Sequence[bytes]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """All runs of `SHINGLE` bytes, as numbers: one text after the other, and where each begins and the last ends."""
    padded = [text if len(text) >= SHINGLE else text.ljust(SHINGLE) for text in texts]
    lengths = np.array([len(text) for text in padded])
    tokens = _runs(b"".join(padded))
    inside = np.ones(len(tokens), bool)
    ends = np.cumsum(lengths)[:-1]
    for back in range(1, SHINGLE):
        inside[ends - back] = False
    return tokens[inside], np.concatenate([[0], np.cumsum(lengths - SHINGLE + 1)]).astype(np.uint64)


def _runs(data: bytes) -> NDArray[np.uint64]:
    """Every run of `SHINGLE` bytes as a number, its bits well mixed."""
    count = len(data) - SHINGLE + 1
    data += bytes(8)
    found = np.empty(count, np.uint64)
    for start in range(min(8, count)):  # eight bytes at a time, from each of eight starts
        found[start::8] = np.frombuffer(data, "<u8", -(-(count - start) // 8), offset=start)
    found &= np.uint64(2 ** (8 * SHINGLE) - 1)
    return _mixed(found)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    values = values * np.uint64(0x9E3779B97F4A7C15)
    return values ^ (values >> np.uint64(32))


def _keys(slots: NDArray[np.uint32], marks: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """[bands, rows]: one number for the slots of a band and the mark, so that only rows with equal marks meet."""
    parts = slots[:, : BANDS * WIDTH].reshape(-1, BANDS, WIDTH).T
    found = np.repeat(marks[None], BANDS, axis=0)
    for part in parts:
        found = _mixed(found ^ part)
    return found


def _meetings(keys: NDArray[np.uint64], roots: Labels) -> Iterator[NDArray[np.int64]]:
    """Pairs of rows with an equal key that no group holds yet: each with the first of its kind and with the two before,
    so their number grows by rows and not by their square."""
    order = np.argsort(keys, kind="stable")
    ranked = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]])) if len(keys) else np.zeros(0, int)
    for start in range(0, len(keys), PAIRS):
        places = np.arange(start, min(start + PAIRS, len(keys)))
        first = starts[np.searchsorted(starts, places, side="right") - 1]
        for before in (first, np.maximum(first, places - 1), np.maximum(first, places - 2)):
            pairs = np.stack([order[before], order[places]], axis=1)
            pairs = pairs[(before != places) & (roots[pairs[:, 0]] != roots[pairs[:, 1]])]
            if len(pairs):
                yield pairs


def _alike(pairs: NDArray[np.int64], slots: int) -> NDArray[np.bool_]:
    """Which pairs may be near on both sides, by their slots in the open file."""
    size = 2 * SLOTS
    one, other = (
        np.frombuffer(b"".join(os.pread(slots, size, place * size) for place in column.tolist()), np.uint8)
        for column in pairs.T
    )
    equal = (one == other).reshape(-1, 2, SLOTS).mean(axis=2)
    chance = 1 / 256  # two different slots have the same byte
    return np.asarray(((equal - chance) / (1 - chance)).min(axis=1, initial=1.0) >= LIKELY)


def _jaccard(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> float:
    small, large = sorted((len(one), len(other)))
    if small < ALIKE * large:  # the most that it could be
        return 0.0
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (small + large - shared)


def _talk(content: Conversation, labels: tuple[str, ...]) -> Sides:
    asked = [turn.content for turn in content.turns if turn.role != "assistant"]
    answers = [text for turn in content.turns if turn.role == "assistant" for text in _said(turn)]
    return _sides(asked, answers, labels)


def _said(turn: Turn) -> list[str]:
    calls = [orjson.dumps(turn.calls, option=orjson.OPT_SORT_KEYS).decode()] if turn.calls else []
    return [turn.content, *calls]


def _sides(prompt: list[str], answer: list[str], labels: tuple[str, ...]) -> Sides:
    asked, said = plain(prompt), plain(answer)
    numbers = b" ".join((asked + b" " + said).translate(DIGITS).split())
    equal = orjson.dumps(labels) + numbers
    return Sides(asked, said, int.from_bytes(hashlib.blake2b(equal, digest_size=8).digest(), "little"))
