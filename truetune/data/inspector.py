"""What a check of the data is told while rows are prepared: every row once, as it is learned or why it is not."""

from __future__ import annotations

from typing import Protocol

from truetune.data.fit import Fitted
from truetune.data.render import Rendered
from truetune.data.rows import Content, Reject, Row


class Inspector(Protocol):
    """Looks at rows in the order in which they are settled. With one, `prepare` reads the rows even where the cache has
    them; each row comes to exactly one of the two."""

    def used(self, row: Row, content: Content, rendered: Rendered, fitted: Fitted, train: bool) -> None:
        """A row that is learned or measured on; `train` is false for rows of an explicit validation file."""

    def unused(self, reject: Reject) -> None:
        """A row that is not: refused, a duplicate, contaminated, too long or without anything to learn."""
