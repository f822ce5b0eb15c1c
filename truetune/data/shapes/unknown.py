"""What is said of rows whose shape is none that is known: what they have, what is nearest, and how to name columns."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping

from truetune.data.shapes import Shape
from truetune.data.shapes.names import listed
from truetune.errors import InputError

COLUMNS = 8
"""Names of columns that are told."""
NEAREST = 3
USUAL = ("prompt_completion", "messages", "text")
"""Shapes that are told where none is near."""
CLOSE = 0.6
"""Likeness from which a name is another one's, misspelled."""
WORDS = 5
"""Words from which a name is a sentence."""
NAMING = "`--columns prompt=…,response=…` (in train.yml `data.columns: {prompt: …, response: …}`)"


def unknown(
    message: str,
    names: Collection[str],
    columns: Mapping[str, str] | None,
    shapes: Mapping[str, Shape],
    where: str,
) -> InputError:
    """`names` are those of the columns found, the most frequent first; `where` the files."""
    place = where or ("data.columns" if columns else "data.format")
    found = [name for name in names if name.strip()]
    if any(name.lstrip().startswith(("{", "[")) for name in found):
        message, hint = "the first line is JSON, not the names of columns", "Name the file .jsonl."
    elif any(len(name.split()) >= WORDS for name in found):
        message = "the first line looks like a row, not like the names of columns: is the header missing?"
        hint = "Write a line of names above it, such as `prompt,response`."
    else:
        near = "; ".join(f"{shape.name} ({', '.join(shape.columns)})" for shape in nearest(found, shapes))
        mine = f"You named {', '.join(f'{ours}={theirs}' for ours, theirs in columns.items())}. " if columns else ""
        told = listed(found, COLUMNS) or "none"
        hint = f"{mine}Columns found: {told}. The nearest formats: {near}. Say which is which: {NAMING}."
    return InputError(message, code="data.unknown_format", where=place, hint=hint)


def nearest(names: Iterable[str], shapes: Mapping[str, Shape]) -> list[Shape]:
    """The shapes whose columns are there, or nearly, as far as possible."""
    found = [name.strip().lower() for name in names]
    scores = {name: _likeness(shape.columns, found) for name, shape in shapes.items()}
    order = sorted(scores, key=lambda name: -scores[name])
    near = [name for name in order if scores[name] > 0]
    return [shapes[name] for name in dict.fromkeys((*near, *USUAL))][:NEAREST]


def _likeness(columns: Collection[str], found: list[str]) -> float:
    """The part of the columns that is found; a name that is only like one counts less."""
    best = [max((difflib.SequenceMatcher(None, name, other).ratio() for other in found), default=0) for name in columns]
    return sum(ratio for ratio in best if ratio >= CLOSE) / len(columns)
