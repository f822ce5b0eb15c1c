"""Which rows are held out. By content, not by position: a row stays on its side when others come, go or move."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

from truetune.errors import InputError


class Amount(Protocol):
    """A number of rows, or a part of them."""

    def of(self, total: int) -> int: ...
    def within(self, total: int) -> int: ...


def hold_out(digests: Sequence[bytes], amount: Amount | str | None, seed: int) -> set[int]:
    """Places in `digests` that are held out; at least one row is left to train on.

    Raises InputError (`data.validation`) if more is asked for than there is.
    """
    count = size(len(digests), amount)
    ranked = sorted(range(len(digests)), key=lambda place: (_rank(digests[place], seed), place))
    return set(ranked[:count])


def size(rows: int, amount: Amount | str | None) -> int:
    """`auto` is 5%, at least 8 (at most half of the rows), at most 500; none below 4 rows."""
    if amount is None:
        return 0
    if isinstance(amount, str):
        return min(500, max(round(rows * 0.05), min(8, rows // 2))) if rows >= 4 else 0
    count = amount.of(rows)
    if count >= rows:
        raise InputError(
            f"{count} rows are to be held out, but there are only {rows}",
            code="data.validation",
            where="data.validation",
            hint="Hold out fewer rows, or give more data.",
        )
    return count


def _rank(digest: bytes, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:".encode() + digest).digest()
