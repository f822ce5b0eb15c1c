"""Foreign text inside Markdown: whatever a row, a name or a model says stays text."""

from __future__ import annotations

import re
from collections.abc import Sequence

SPECIAL = re.compile(r"([\\`*_\[\]<>|&~$])")
BLANK = re.compile("[\\s\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]+")
"""White space, and what STEERING names."""
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, marks that turn the direction of writing, halves of a pair; tab and newline are text."""


def inline(text: object) -> str:
    """Text for a sentence or a cell of a table, in one line."""
    return SPECIAL.sub(r"\\\1", BLANK.sub(" ", str(text)).strip())


def code(text: object) -> str:
    """A code span, in a table too: its fence is longer than any in the text."""
    body = BLANK.sub(" ", str(text)).strip().replace("|", "\\|")
    fence = "`" * (longest(body) + 1)
    space = " " if body.startswith("`") or body.endswith("`") or not body else ""
    return f"{fence}{space}{body}{space}{fence}"


def block(text: str, language: str = "") -> str:
    """A fenced block, its fence longer than any in the text."""
    body = STEERING.sub("\ufffd", text.replace("\r\n", "\n"))
    fence = "`" * max(3, longest(body) + 1)
    return f"{fence}{language}\n{body}\n{fence}"


def longest(text: str) -> int:
    """The longest row of backticks."""
    return max(map(len, re.findall("`+", text)), default=0)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table; cells are Markdown already."""
    return [line(head), line(["---"] * len(head)), *map(line, rows)]


def line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
