"""One row of JSON: an object, or why it is none. Strict, and exact about the reason.

Beyond JSON's grammar, what cannot be training text is refused: NUL characters, lone surrogates, numbers that no
float holds, nesting deeper than `DEPTH`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from truetune.data.rows import RAW_LIMIT, RowError

DEPTH = 64
LINE = 32 * 2**20
"""Most bytes of one row."""
SPACE = b" \t\r\n"
"""JSON's own white space; form feeds and the like are not part of it."""

Value = dict[str, Any] | RowError
Item = tuple[int, Value, str]
"""Line (from 1), the row or why it is none, and its raw text, shortened."""

KEY_END = re.compile(rb'"[ \t\r\n]*+:')
"""Ends every key; in a text it may stand too."""


def parse(raw: bytes) -> Value:
    """One row of JSON: an object, or why it is none."""
    if len(raw) > LINE:
        return too_big()
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        return _refusal(raw, error)
    if not isinstance(value, dict):
        return RowError("data.not_an_object", f"a row is an object of columns, not {_kind(value)}")
    if raw.count(b"[") + raw.count(b"{") > DEPTH and depth(value) > DEPTH:
        return too_deep()
    if b"\\u0000" in raw and any("\0" in text for text in strings(value)):
        return RowError("data.nul", "contains a NUL character")
    return value


def too_big() -> RowError:
    return RowError("data.too_big", f"the row has more than {LINE // 2**20} MiB")


def twice(raw: bytes, value: dict[str, Any]) -> list[str]:
    """Keys that stand twice in one object of the row, which `value` is; the parser keeps the last of them.

    A key that stands once is one end of a key in the text and one key of the value, so equal counts settle it.
    """
    if len(KEY_END.findall(raw)) == _keys(value):
        return []
    found: list[str] = []

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        found.extend(dict.fromkeys(name for place, name in enumerate(names) if name in names[:place]))
        return dict(pairs)

    json.loads(raw, object_pairs_hook=collect)
    return found


def bad_text(texts: Iterable[str]) -> RowError | None:
    """Why texts decoded with `surrogateescape` are no training text, if they are none."""
    for text in texts:
        if "\0" in text:
            return RowError("data.nul", "contains a NUL character")
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            return _not_utf8()
    return None


def shown(raw: bytes) -> str:
    return raw[:RAW_LIMIT].decode("utf-8", "replace").strip()


def printable(text: str) -> str:
    """The start of a text, without the halves of characters that `surrogateescape` leaves in it."""
    return text[:RAW_LIMIT].encode("utf-8", "replace").decode()


def _refusal(raw: bytes, error: orjson.JSONDecodeError) -> RowError:
    """The reason in the user's words: the grammar is broken, or something stands in it that no row may hold."""
    constants: list[str] = []
    try:
        value = json.loads(raw.decode("utf-8", "replace"), parse_constant=constants.append)
    except RecursionError:
        return too_deep()
    except json.JSONDecodeError as plain:
        told = plain if "UTF-8" in error.msg else error  # where bytes are bad, too, the parser has no place to tell
        return RowError("json.syntax", f"not valid JSON: {told.msg}, at character {told.pos + 1} of the row")
    except ValueError:
        return RowError("json.syntax", f"not valid JSON: {error.msg}, at character {error.pos + 1} of the row")
    if constants:
        where = raw.find(constants[0].encode()) + 1
        return RowError("json.syntax", f"not valid JSON: {constants[0]} is no number, at character {where} of the row")
    return _unusable(raw, value)


def _unusable(raw: bytes, value: Any) -> RowError:
    """Why a text that keeps JSON's grammar is refused all the same."""
    try:
        raw.decode()
    except UnicodeDecodeError:
        return _not_utf8()
    if depth(value) > DEPTH:
        return too_deep()
    if any("\ud800" <= character <= "\udfff" for text in strings(value) for character in text):
        return RowError("json.surrogate", "contains half of a character (a lone surrogate such as `\\ud800`)")
    return RowError("json.number", "contains a number too large to be kept (such as 1e999)")


def _not_utf8() -> RowError:
    return RowError("data.encoding", "contains bytes that are not UTF-8")


def too_deep() -> RowError:
    return RowError("data.too_deep", f"nested more than {DEPTH} levels deep")


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def depth(value: Any) -> int:
    """Levels of nesting, without recursion."""
    deepest, todo = 0, [(value, 1)]
    while todo:
        item, level = todo.pop()
        if isinstance(item, dict | list):
            deepest = max(deepest, level)
            todo += [(child, level + 1) for child in (item.values() if isinstance(item, dict) else item)]
    return deepest


def _keys(value: Any) -> int:
    """Keys of all objects in it, without recursion."""
    count, todo = 0, [value]
    while todo:
        item = todo.pop()
        if isinstance(item, dict):
            count += len(item)
            todo += item.values()
        elif isinstance(item, list):
            todo += item
    return count


def strings(value: Any) -> Iterator[str]:
    todo = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            todo += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            todo += item
