"""JSON as run folders hold it: one set of bytes per value, no NaN, one error for whatever cannot be read.

JSON has no NaN or infinity: orjson writes both as `null`, and readers take `null` as "not a number".
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from truetune.errors import InputError


def dumps(value: Any) -> bytes:
    """Canonical and readable: keys sorted, two spaces, a newline at the end; equal values give equal bytes."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def line(value: Any) -> bytes:
    """One line of a `.jsonl` file, keys in the order given."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)


def parse(data: bytes) -> dict[str, Any] | None:
    """The object in `data`, or None where it is torn, damaged or no object."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def load(path: Path) -> dict[str, Any]:
    """The object in a file. Raises InputError where the file is missing or damaged."""
    try:
        value = parse(path.read_bytes())
    except OSError as error:
        raise InputError(
            f"the file cannot be read: {error.strerror}",
            code="run.unreadable",
            where=str(path),
            hint="is this a run folder, and may you read it?",
        ) from error
    if value is None:
        raise InputError(
            "the file is damaged: it holds no JSON object",
            code="run.damaged",
            where=str(path),
            hint="restore it from a copy, or start a new run",
        )
    return value
