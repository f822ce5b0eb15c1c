"""New rows in the shape of those they are made from, because a training reads all its files as one shape."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from truetune.data.formats import Format
from truetune.data.notations import to_row
from truetune.data.rows import Conversation, RowError

NOTATIONS = {"messages": "openai", "sharegpt": "sharegpt", "alpaca": "alpaca"}
"""Shape -> its notation. Shapes of two columns hold what `prompt_completion` holds, under other names."""
LAST_RESORT = "messages"


def written(form: Format, talk: Conversation) -> dict[str, Any]:
    """A row that `form` reads as this conversation; one of `LAST_RESORT` where no notation of ours makes one."""
    return next((row for row in attempts(form, talk) if reads(form, row, talk)), to_row(talk, "openai"))


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
