"""Names of columns: ours in another spelling, and those that a shape has no use for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache

from truetune.data.shapes import Shape, Value
from truetune.data.shapes.table import SHAPES

BOOKKEEPING = frozenset(
    (
        *("id", "_id", "row_id", "idx", "index", "uid", "uuid", "key", "hash", "url", "uri", "source", "origin"),
        *("generated", "metadata", "meta", "lang", "language", "score", "date", "created", "created_at", "timestamp"),
        *("version", "split", "license"),
    )
)
"""Columns that say where a row comes from: they are named last."""
MOST, LONGEST = 12, 30
"""Names that a sentence has, and characters of each."""
KEPT = 100
"""Names that are kept of a file: rows of a file can have keys without end."""


def spelled(value: Value) -> Mapping[str, str]:
    """Our names of columns that the row has in other capitals or with spaces around them, and theirs."""
    return _spelled(tuple(value))


def tidy(value: Value) -> Value:
    """The row under our names. A column that has exactly our name goes before one that has nearly."""
    found = _spelled(tuple(value))
    if not found:
        return value
    ours = {theirs: name for name, theirs in found.items()}
    return {ours.get(name, name): item for name, item in value.items()}


def listed(names: Iterable[str], most: int = MOST) -> str:
    """Names for a sentence, in short."""
    every = list(names)
    cut = [name if len(name) <= LONGEST else f"{name[:LONGEST]}…" for name in every[:most]]
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(cut) + more


@dataclass
class Unused:
    """Collects the columns that no row of a file has a use for, as far as anything stands in them."""

    files: dict[str, dict[str, None]] = field(default_factory=dict)

    def see(self, file: str, value: Value, shape: Shape, columns: Mapping[str, str] | None, row: Value) -> None:
        """`row` is what the shape reads of `value`."""
        used = shape.used(row)
        if columns is not None:
            used = frozenset(theirs for ours, theirs in columns.items() if ours in used)
            row = value
        for name, item in row.items():
            if name not in used and _says(item):
                names = self.files.setdefault(file, {})
                if len(names) < KEPT:
                    names[name] = None

    def names(self) -> list[str]:
        """Of all files, bookkeeping last."""
        return _sorted({name: None for names in self.files.values() for name in names})

    def findings(self) -> list[dict[str, str]]:
        """A note for each file, or for files that have the same such columns."""
        groups: dict[tuple[str, ...], list[str]] = {}
        for file, names in self.files.items():
            groups.setdefault(tuple(_sorted(names)), []).append(file)
        return [_finding(names, files, len(groups) > 1) for names, files in groups.items()]


def _finding(names: Sequence[str], files: Sequence[str], several: bool) -> dict[str, str]:
    others = f" and {len(files) - 1} more" if len(files) > 1 else ""
    about = f"{files[0]}{others}: " if several else ""
    message = f"{about}columns that are not used: {listed(names)}"
    return {"code": "data.unused_columns", "level": "note", "message": message, "where": files[0]}


def _says(item: object) -> bool:
    return item is not None and item != "" and item != [] and item != {}


def _sorted(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: name.lower() in BOOKKEEPING)


@cache
def _known() -> frozenset[str]:
    return frozenset(name for shape in SHAPES.values() for name in (*shape.columns, *shape.others))


@lru_cache(maxsize=1024)
def _spelled(names: tuple[str, ...]) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for name in names:
        plain = name.strip().lower()
        if plain != name and plain in _known() and plain not in names:
            found.setdefault(plain, name)
    return found
