"""What a person should know about a file whose rows are used all the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

Note = Callable[[int, str, str], None]
"""Takes a line (from 1; 0 = the whole file), a code and a sentence."""

NAMED = 10
"""Notes of one code that are told one by one."""


def ignore(line: int, code: str, message: str) -> None:
    """For who reads the rows only."""


@dataclass
class Notes:
    """Collects the notes of several files."""

    counts: Counter[str] = field(default_factory=Counter)
    told: list[tuple[str, str]] = field(default_factory=list)

    def of(self, name: str) -> Note:
        """Takes the notes of the file that is shown as `name`."""

        def note(line: int, code: str, message: str) -> None:
            self.counts[code] += 1
            if self.counts[code] <= NAMED:
                self.told.append((code, f"{name}:{line}: {message}" if line else f"{name}: {message}"))

        return note

    def findings(self) -> list[tuple[str, str]]:
        """(code, message), the first `NAMED` of each code and the number of the others."""
        more = [(code, f"… and {count - NAMED} more") for code, count in self.counts.items() if count > NAMED]
        return self.told + more
