"""Rows out of files, strictly: `.json`, `.jsonl`, `.csv`, `.txt`. A bad row is named and the rest goes on.

JSON is UTF-8 (a BOM is skipped) or UTF-16 with a BOM. What JSON allows but training does not want (NUL characters,
nesting deeper than `DEPTH`) is refused, and so is what other readers let pass: NaN, lone surrogates, ragged CSV rows.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson

from truetune.data import elements
from truetune.data.rows import RAW_LIMIT, RowError
from truetune.errors import InputError

DEPTH = 64
LINE = 32 * 2**20
"""Most bytes of one row."""

Value = dict[str, Any] | RowError
Item = tuple[int, Value, str]
"""Line (from 1), the row or why it is none, and its raw text, shortened."""


def read(path: Path) -> Iterator[Item]:
    """The rows of one file, by its suffix (see `READERS`). Raises InputError (`data.encoding`) for damaged UTF-16."""
    try:
        yield from READERS[path.suffix.lower()](path)
    except UnicodeDecodeError as error:
        raise InputError(
            f"not valid {error.encoding}: {error.reason}",
            code="data.encoding",
            where=str(path),
            hint="Save the file as UTF-8.",
        ) from error


def jsonl(path: Path) -> Iterator[Item]:
    """One object per line; empty lines are skipped."""
    for line, raw in _lines(path):
        if raw.strip():
            yield line, parse(raw), _shown(raw)


def json(path: Path) -> Iterator[Item]:
    """An array of objects, an object that holds one under a key of its own, one object, or one object per line."""
    raw = _bytes(path)
    start = raw.lstrip()[:1]
    if start == b"[":
        yield from _array(raw, raw.index(b"["))
    elif start == b"{" and (place := _held(raw)) is not None:
        yield from _array(raw, place, enclosed=True)
    elif start == b"{" and not isinstance(parse(raw), RowError):
        yield 1, parse(raw), _shown(raw)
    else:
        yield from jsonl(path)


def table(path: Path) -> Iterator[Item]:
    """CSV with a header, comma-separated, quoted as RFC 4180 says. A row has as many cells as the header."""
    csv.field_size_limit(LINE)
    with _text(path) as stream:
        rows = csv.reader(stream, strict=True)
        header: list[str] | None = None
        while True:
            line = rows.line_num + 1
            try:
                cells = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                yield line, _broken(error, rows.line_num - line + 1), ""
                continue
            if header is None:
                header = _header(path, cells)
            elif cells:
                yield line, _record(header, cells), ",".join(cells)[:RAW_LIMIT]


def lines(path: Path) -> Iterator[Item]:
    """Plain text: each line that is not blank is one document."""
    with _text(path) as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                text = line.rstrip("\r\n")
                yield number, _bad_text([text]) or {"text": text}, text[:RAW_LIMIT]


READERS: dict[str, Callable[[Path], Iterator[Item]]] = {".json": json, ".jsonl": jsonl, ".csv": table, ".txt": lines}


def parse(raw: bytes) -> Value:
    """One row of JSON: an object, or why it is none."""
    if len(raw) > LINE:
        return RowError("data.too_big", f"the row has more than {LINE // 2**20} MiB")
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        return RowError("json.syntax", f"not valid JSON: {error.msg}, at character {error.pos + 1} of the row")
    if not isinstance(value, dict):
        return RowError("data.not_an_object", f"a row is an object of columns, not {_kind(value)}")
    if raw.count(b"[") + raw.count(b"{") > DEPTH and _depth(value) > DEPTH:
        return RowError("data.too_deep", f"nested more than {DEPTH} levels deep")
    if b"\\u0000" in raw and any("\0" in text for text in _strings(value)):
        return RowError("data.nul", "contains a NUL character")
    return value


def _array(raw: bytes, start: int, enclosed: bool = False) -> Iterator[Item]:
    for line, part in elements.split(raw, start, enclosed):
        if isinstance(part, RowError):
            yield line, part, ""
        else:
            yield line, parse(part), _shown(part)


def _held(raw: bytes) -> int | None:
    """Where the array of rows begins, in an object whose only list it is: `{"version": 1, "data": [{…}, …]}`."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    held = [key for key, item in value.items() if isinstance(item, list)]
    if len(held) != 1 or held[0] not in ("data", "rows", "train", "examples") or not value[held[0]]:
        return None
    match = re.search(rb'"' + held[0].encode() + rb'"\s*:\s*\[', raw)
    return match.end() - 1 if match else None


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines as UTF-8, without reading an endless one."""
    stream: Any = io.BytesIO(_bytes(path)) if _encoding(path) == "utf-16" else path.open("rb")
    with stream:
        number = 0
        while raw := stream.readline(LINE + 1):
            number += 1
            more = raw
            while len(more) > LINE and not more.endswith(b"\n"):
                more = stream.readline(LINE + 1)  # skip the rest of a line that `parse` refuses
            yield number, raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw


def _bytes(path: Path) -> bytes:
    """The whole file as UTF-8; what is not decodable stays, for the parser to refuse row by row."""
    raw = path.read_bytes()
    if _encoding(path) == "utf-16":
        return raw.decode("utf-16").encode()
    return raw.removeprefix(codecs.BOM_UTF8)


def _text(path: Path) -> io.TextIOWrapper:
    """A text stream; undecodable bytes become lone surrogates, which `_bad_text` finds row by row."""
    return path.open("r", encoding=_encoding(path), errors="surrogateescape", newline="")


def _encoding(path: Path) -> str:
    with path.open("rb") as stream:
        start = stream.read(2)
    return "utf-16" if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def _header(path: Path, cells: list[str]) -> list[str]:
    """The names of the columns. Two of the same name would hide one another."""
    twice = next((name for place, name in enumerate(cells) if name in cells[:place]), None)
    if twice is not None:
        hint = "Give each column a name of its own."
        raise InputError(f"two columns are called {twice!r}", code="data.header", where=f"{path}:1", hint=hint)
    return cells


def _broken(error: csv.Error, lines: int) -> RowError:
    """A bad record; one that runs to the end of the file has swallowed every row after it."""
    if "unexpected end of data" in str(error):
        return RowError("data.broken_file", f"a quote is not closed: it takes in the {lines} lines to the file's end")
    return RowError("csv.syntax", f"not valid CSV: {error}")


def _record(header: list[str], cells: list[str]) -> Value:
    if len(cells) != len(header):
        return RowError("data.ragged_row", f"the row has {len(cells)} cells, the header has {len(header)}")
    return _bad_text(cells) or dict(zip(header, cells, strict=True))


def _bad_text(texts: Iterable[str]) -> RowError | None:
    for text in texts:
        if "\0" in text:
            return RowError("data.nul", "contains a NUL character")
        try:
            text.encode()
        except UnicodeEncodeError:
            return RowError("data.encoding", "contains bytes that are not UTF-8")
    return None


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _depth(value: Any) -> int:
    """Levels of nesting, without recursion."""
    deepest, todo = 0, [(value, 1)]
    while todo:
        item, level = todo.pop()
        if isinstance(item, dict | list):
            deepest = max(deepest, level)
            todo += [(child, level + 1) for child in (item.values() if isinstance(item, dict) else item)]
    return deepest


def _strings(value: Any) -> Iterator[str]:
    todo = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            todo += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            todo += item


def _shown(raw: bytes) -> str:
    return raw[:RAW_LIMIT].decode("utf-8", "replace").strip()
