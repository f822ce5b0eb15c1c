"""New rows in one shape, that of those they are made from: a training reads a file as one shape, and where the user
named shape or columns, all files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from truetune.data.formats import Format
from truetune.data.notations import to_row
from truetune.data.rows import Conversation, RowError

NOTATIONS = {"messages": "openai", "sharegpt": "sharegpt", "alpaca": "alpaca"}
"""Shape -> its notation. Shapes of two columns hold what `prompt_completion` holds, under other names."""
LAST_RESORT = "messages"


def written(form: Format, talks: Sequence[Conversation]) -> list[dict[str, Any]]:
    """Rows that `form` reads as these conversations; all in `LAST_RESORT` where no notation of ours makes each."""
    found = [next((row for row in attempts(form, talk) if reads(form, row, talk)), None) for talk in talks]
    rows = [row for row in found if row is not None]
    return rows if len(rows) == len(talks) else [to_row(talk, "openai") for talk in talks]


def attempts(form: Format, talk: Conversation) -> Iterator[dict[str, Any]]:
    """The row in the shape's notation, under the user's names of the columns."""
    shape, theirs = form.shape, form.columns or {}
    names = {} if shape.name in NOTATIONS else dict(zip(("prompt", "completion"), shape.columns, strict=False))
    try:
        row = to_row(talk, NOTATIONS.get(shape.name, "prompt_completion"))
    except RowError:
        return
    ours = {names.get(key, key): value for key, value in row.items()}
    yield {theirs.get(key, key): value for key, value in ours.items()}


def reads(form: Format, row: dict[str, Any], talk: Conversation) -> bool:
    try:
        return form.read(row) == talk
    except RowError:
        return False
