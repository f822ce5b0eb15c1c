"""Where rows stand in their files, for messages about single rows: a training itself knows only their numbers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from truetune.data import sources
from truetune.data.prepare import read
from truetune.data.rows import Row
from truetune.errors import TrueTuneError

Where = Callable[[Collection[int]], list[str]]
"""Numbers of rows -> how people find them, in order."""
LISTED = 4


def numbers(rows: Collection[int]) -> list[str]:
    """Rows by their numbers, where no file is known."""
    return [f"row {row + 1}" for row in sorted(set(rows))]


def of(report: Mapping[str, Any]) -> Where:
    """`support.jsonl:41` for rows of these inputs, which are read again; by number where that is not possible."""

    def where(rows: Collection[int]) -> list[str]:
        wanted = sorted(set(rows))
        inputs = [sources.Source(Path(one["resolved"]), one["path"], one["bytes"]) for one in report["inputs"]]
        try:
            found = {row.index: row.where for row in read(inputs) if row.index in wanted and isinstance(row, Row)}
        except (TrueTuneError, OSError):  # moved or changed since
            found = {}
        return [found.get(row, f"row {row + 1}") for row in wanted]

    return where


def listed(names: Sequence[str]) -> str:
    """The first few of them, for a sentence."""
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")
