"""Tool calls as text: whether a template wrote all that a call says, in whatever notation it has for calls.

Templates write calls as JSON, as XML, as Python, as JSON within JSON. So a call is looked for piece by piece: its name,
the names of its arguments, and each value in one of the ways in which a value is written.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from truetune.data.rows import Turn


def missing(written: str, turn: Turn) -> str:
    """The first piece of the turn's calls that is not in the text, empty if all of them are."""
    for call in turn.calls:
        function = call["function"]
        for value in (function["name"], *leaves(function.get("arguments"))):
            if not stands(value, written):
                return str(value)[:80]
    return ""


def stands(value: Any, written: str) -> bool:
    """Whether a text, a number, true, false or null is written there."""
    return any(form in written for form in _forms(value))


def leaves(value: Any) -> Iterator[Any]:
    """All keys and values that are not containers, in order."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from leaves(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from leaves(item)
    else:
        yield value


def texts(*values: Any) -> Iterator[str]:
    """All texts in calls or tool definitions."""
    return (leaf for leaf in leaves(values) if isinstance(leaf, str))


def _forms(value: Any) -> Iterator[str]:
    """As Python writes it, as JSON, and as JSON within a JSON text."""
    if not isinstance(value, str):
        yield from (str(value), json.dumps(value))
        return
    yield value.strip()
    yield repr(value)[1:-1]
    for ascii_only in (False, True):
        once = json.dumps(value, ensure_ascii=ascii_only)[1:-1]
        yield from (once, json.dumps(once, ensure_ascii=ascii_only)[1:-1])
