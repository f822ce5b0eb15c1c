"""Rows that stand twice, and training rows that stand in the validation file."""

from __future__ import annotations

from dataclasses import dataclass, field

from truetune.data.rows import Content, Row, RowError


@dataclass
class Dedupe:
    """Remembers what has been seen by its digest (16 bytes of sha256), so memory grows by rows, not by text."""

    exact: bool
    held_out: frozenset[bytes] = frozenset()
    """Rows of an explicit validation file: they are not trained."""
    _seen: dict[bytes, str] = field(default_factory=dict)

    def check(self, row: Row, content: Content, train: bool) -> None:
        """Raises RowError: `data.contaminated` or `data.duplicate`, naming where the row stands first."""
        digest = content.digest
        if train and digest in self.held_out:
            raise RowError("data.contaminated", "the row also stands in the validation file")
        if self.exact and digest in self._seen:
            raise RowError("data.duplicate", f"the row equals {self._seen[digest]}")
        if self.exact:
            self._seen[digest] = row.where
