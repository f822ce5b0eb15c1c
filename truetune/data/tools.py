"""Tool calls and definitions of tools, in the notations people use, to OpenAI's.

A call becomes `{"id"?, "type": "function", "function": {"name", "arguments": {…}}}`. Arguments may be written as an
object or as JSON text; tables (Parquet, CSV) can't hold them otherwise than as text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from truetune.data.reading.values import DEPTH, depth, strings, too_deep
from truetune.data.rows import RowError


def calls(value: Any, where: str) -> tuple[dict[str, Any], ...]:
    """`tool_calls` of a message, or what a `function_call` turn of ShareGPT holds: one call or a list of them.

    Raises RowError (`data.tool_calls`).
    """
    value = parsed(value, where)
    found = value if isinstance(value, list) else [value]
    return tuple(_call(item, where) for item in found)


def definitions(value: Any) -> tuple[dict[str, Any], ...]:
    """The column `tools`: a list of definitions, each bare or wrapped as OpenAI does. Raises RowError
    (`data.tool_calls`)."""
    if not value:
        return ()
    value = parsed(value, "`tools`")
    if not isinstance(value, list):
        raise _bad("`tools` must be a list of definitions")
    return tuple(_definition(item) for item in value)


def parsed(value: Any, where: str) -> Any:
    """What JSON text holds; anything else as it is. Raises RowError (`data.tool_calls`)."""
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise _bad(f"{where}: the tool call is not valid JSON: {error.msg}") from error


def _call(item: Any, where: str) -> dict[str, Any]:
    if not isinstance(item, Mapping):
        raise _bad(f"{where}: a tool call must be an object with a name and arguments")
    function = item["function"] if item.get("function") else item
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name.strip():
        raise _bad(f"{where}: a tool call has no name")
    arguments = parsed(_arguments(function), where)
    if not isinstance(arguments, Mapping):
        raise _bad(f"{where}: the arguments of {name!r} must be an object")
    call = {"type": "function", "function": {"name": name, "arguments": _plain(arguments, where)}}
    return {"id": _identity(item["id"], where), **call} if item.get("id") else call


def _arguments(function: Mapping[str, Any]) -> Any:
    """An empty object where there are none: a function without parameters."""
    found = function.get("arguments", function.get("parameters"))
    return {} if found is None or found == "" else found


def _identity(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise _bad(f"{where}: the id of a tool call must be text")
    return value


def _definition(item: Any) -> dict[str, Any]:
    item = parsed(item, "`tools`")
    if not isinstance(item, Mapping):
        raise _bad("`tools`: each definition must be an object")
    function = item.get("function") or item
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name.strip():
        raise _bad("`tools`: a definition has no name")
    item = _plain(item, "`tools`")
    return item if item.get("function") else {"type": "function", "function": item}


def _plain(value: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The object as JSON holds it: a table may hold dates, which become texts, and what JSON has no word for."""
    try:
        found: dict[str, Any] = orjson.loads(orjson.dumps(dict(value)))
    except TypeError as error:
        raise _bad(f"{where}: {error}") from error
    if depth(found) > DEPTH:
        raise too_deep()
    if any("\0" in text for text in strings(found)):
        raise RowError("data.nul", f"{where} contains a NUL character")
    return found


def _bad(reason: str) -> RowError:
    return RowError("data.tool_calls", reason)
