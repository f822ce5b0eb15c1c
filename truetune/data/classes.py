"""The classes of labelled rows: numbers as the names come, in the end those of the names in order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from truetune.data.rows import Content, Labelled, Rated


@dataclass
class Classes:
    """`several` where some row has no label or more than one."""

    found: dict[str, int] = field(default_factory=dict)
    several: bool = False

    def numbers(self, content: Content) -> tuple[int, ...]:
        """The labels of a row, as `Example.label` has them before `order` renames them."""
        if isinstance(content, Rated):
            return (int(content.desirable),)
        if not isinstance(content, Labelled):
            return ()
        self.several |= len(content.labels) != 1
        return tuple(self.found.setdefault(name, len(self.found)) for name in content.labels)

    @property
    def names(self) -> list[str]:
        """Numbers by size, then words by alphabet."""
        return sorted(self.found, key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name))

    @property
    def order(self) -> NDArray[np.int32] | None:
        """From a number as it came to its place in `names`; None where rows are not labelled."""
        if not self.found:
            return None
        places = {name: place for place, name in enumerate(self.names)}
        return np.array([places[name] for name in self.found], np.int32)

    def report(self) -> dict[str, Any]:
        labelled = self.found or self.several  # rows may all have an empty list
        return {"classes": self.names, "several_labels": self.several} if labelled else {}
