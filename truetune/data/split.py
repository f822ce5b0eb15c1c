"""Which rows are held out. By content, not by position: a row stays on its side when others come, go or move."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from truetune.errors import InputError


class Amount(Protocol):
    """A number of rows, or a part of them."""

    def of(self, total: int) -> int: ...
    def within(self, total: int) -> int: ...


@dataclass(frozen=True)
class Traits:
    """What rows are chosen by, a value for each row."""

    keys: NDArray[np.uint64]
    """A number made of what the row asks: it ranks the row's group."""
    own: NDArray[np.uint64]
    """A number made of the whole row: it ranks the row where groups are torn."""
    groups: NDArray[np.int64]
    """Rows with the same number go together."""
    kinds: NDArray[np.int64]
    """Classes by number, in the order of their names; each gives its share."""


@dataclass(frozen=True)
class Split:
    """`held` are places among the rows. `whole` is false where groups are torn: too few of them are small enough."""

    held: set[int]
    whole: bool = True


@dataclass(frozen=True)
class _Groups:
    """Rows by group, in arrays: an object for each row would be most of the memory of a preparation."""

    places: NDArray[np.int64]
    """The rows of one group after those of another."""
    starts: NDArray[np.int64]
    """Where each group begins among them."""
    sizes: NDArray[np.int64]
    kinds: NDArray[np.int64]
    """Of each group's first row."""
    order: NDArray[np.int64]
    """In which groups are held out."""

    def of(self, group: int) -> list[int]:
        start = int(self.starts[group])
        found: list[int] = self.places[start : start + int(self.sizes[group])].tolist()
        return found


def hold_out(traits: Traits, amount: Amount | str | None, seed: int, rows: int | None = None) -> Split:
    """Choose rows to hold out; at least one is left to train on. `amount` is a part of `rows`, by default of these.

    Raises InputError (`data.validation`) if more is asked for than there is.
    """
    count = min(size(len(traits.keys) if rows is None else rows, amount), len(traits.keys))
    if not count:
        return Split(set())
    held = _choose(_gather(traits.keys, traits.groups, traits.kinds, seed), count)
    if 2 * len(held) >= count:
        return Split(held)
    single = np.arange(len(traits.keys))
    return Split(_choose(_gather(traits.own, single, traits.kinds, seed), count), whole=False)


def size(rows: int, amount: Amount | str | None) -> int:
    """`auto` is 5%, at least 8 (at most half of the rows), at most 500; none below 4 rows."""
    if amount is None:
        return 0
    if isinstance(amount, str):
        return min(500, max(round(rows * 0.05), min(8, rows // 2))) if rows >= 4 else 0
    count = amount.of(rows)
    if count and count >= rows:
        raise InputError(
            f"{count} {'row is' if count == 1 else 'rows are'} to be held out, but there {_only(rows)} to choose from",
            code="data.validation",
            where="data.validation",
            hint="Hold out fewer rows, or give more data.",
        )
    return count


def _only(rows: int) -> str:
    return "is only 1" if rows == 1 else f"are only {rows}" if rows else "is none"


def _gather(keys: NDArray[np.uint64], groups: NDArray[np.int64], kinds: NDArray[np.int64], seed: int) -> _Groups:
    """The groups in the order in which they are held out, which their least key decides."""
    places = np.lexsort((keys, groups))
    new = np.concatenate([[True], np.diff(groups[places]) != 0])[: len(places)]
    starts = np.flatnonzero(new)
    first = places[starts]
    ranks = np.fromiter((_rank(int(key), seed) for key in keys[first]), np.uint64, len(first))
    return _Groups(places, starts, np.diff(starts, append=len(places)), kinds[first], np.lexsort((first, ranks)))


def _choose(groups: _Groups, count: int) -> set[int]:
    """Whole groups in their order, as long as the share of their kind has room."""
    room = _shares(groups, count)
    left = sum(room)
    held: set[int] = set()
    for group in groups.order if left else ():
        kind, size = groups.kinds[group], int(groups.sizes[group])
        if size <= room[kind]:
            room[kind] -= size
            left -= size
            held.update(groups.of(group))
            if not left:
                break
    return held


def _shares(groups: _Groups, count: int) -> list[int]:
    """How many rows of each kind are held out: by their part of all, the largest remainders rounded up."""
    sizes = np.zeros(int(groups.kinds.max(initial=-1)) + 1, np.int64)
    np.add.at(sizes, groups.kinds, groups.sizes)
    exact = [count * rows / max(1, len(groups.places)) for rows in sizes.tolist()]
    shares = [int(share) for share in exact]
    left = count - sum(shares)
    for kind in sorted(range(len(exact)), key=lambda kind: (shares[kind] - exact[kind], kind))[:left]:
        shares[kind] += 1
    return shares


def _rank(key: int, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:8], "big")
