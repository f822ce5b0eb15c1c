"""Which rows are held out. By content, not by position: a row stays on its side when others come, go or move."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
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
    kinds: Sequence[str]
    """Classes, each of which gives its share."""


@dataclass(frozen=True)
class Split:
    """`held` are places among the rows. `whole` is false where groups are torn: too few of them are small enough."""

    held: set[int]
    whole: bool = True


@dataclass(frozen=True)
class _Group:
    rank: bytes
    places: list[int]
    kind: str


def hold_out(traits: Traits, amount: Amount | str | None, seed: int, rows: int | None = None) -> Split:
    """Choose rows to hold out; at least one is left to train on. `amount` is a part of `rows`, by default of these.

    Raises InputError (`data.validation`) if more is asked for than there is.
    """
    count = min(size(len(traits.keys) if rows is None else rows, amount), len(traits.keys))
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


def _gather(keys: NDArray[np.uint64], groups: NDArray[np.int64], kinds: Sequence[str], seed: int) -> list[_Group]:
    """The groups in the order in which they are held out, which their least key decides."""
    order = np.lexsort((keys, groups))
    starts = np.flatnonzero(np.concatenate([[True], np.diff(groups[order]) != 0])[: len(order)])
    found = []
    for places in np.split(order, starts[1:]) if len(order) else []:
        first = int(places[0])
        found.append(_Group(_rank(int(keys[first]), seed), places.tolist(), kinds[first]))
    return sorted(found, key=lambda group: (group.rank, group.places[0]))


def _choose(groups: list[_Group], count: int) -> set[int]:
    """Whole groups in their order, as long as the share of their kind has room."""
    room = _shares(groups, count)
    held: set[int] = set()
    for group in groups:
        if len(group.places) <= room[group.kind]:
            room[group.kind] -= len(group.places)
            held.update(group.places)
    return held


def _shares(groups: list[_Group], count: int) -> dict[str, int]:
    """How many rows of each kind are held out: by their part of all, the largest remainders rounded up."""
    sizes: dict[str, int] = {}
    for group in groups:
        sizes[group.kind] = sizes.get(group.kind, 0) + len(group.places)
    total = sum(sizes.values())
    exact = {kind: count * rows / total for kind, rows in sizes.items()}
    shares = {kind: int(share) for kind, share in exact.items()}
    left = count - sum(shares.values())
    for kind in sorted(exact, key=lambda kind: (shares[kind] - exact[kind], kind))[:left]:
        shares[kind] += 1
    return shares


def _rank(key: int, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{key}".encode()).digest()
