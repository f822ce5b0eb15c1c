"""Rows out of files, strictly: a table from suffixes to readers. A bad row is named and the rest goes on.

Every reader takes a `File` (its content as UTF-8, see `reading.file`) and yields each row with its line or number.
What JSON allows but training does not want is refused (see `reading.values`), and so is what other readers let pass:
NaN, lone surrogates, ragged CSV rows. What is used but should be known (another encoding, a key that stands twice) is
noted.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import orjson

from truetune.data import elements
from truetune.data.elements import Part
from truetune.data.reading import packed
from truetune.data.reading.columns import arrow, parquet
from truetune.data.reading.file import File
from truetune.data.reading.notes import Note, ignore
from truetune.data.reading.pages import html, markdown
from truetune.data.reading.tables import Lines, table
from truetune.data.reading.values import LINE, SPACE, Item, bad_text, parse, printable, shown, twice
from truetune.data.rows import RowError
from truetune.errors import InputError

WHOLE = 64 * 2**20
"""Most bytes of a file that is one object: it is parsed as a whole."""
BIG = 64 * 2**20
"""Bytes from which a file of JSON lines is sampled: `ROWS` rows at each of `PLACES` places, spread over all of it."""
PLACES, ROWS = 64, 64
TABLES = frozenset((".arrow", ".csv", ".feather", ".parquet", ".tsv", ".txt"))
"""Files whose rows all have the same columns: the first `MANY` good ones tell their shape."""
MANY = 2**14


def read(path: Path, note: Note = ignore) -> Iterator[Item]:
    """The rows of one file, by its suffix (see `READERS`); what should be known beside them goes to `note`.

    Raises InputError: `data.array`, `data.binary`, `data.encoding`, `data.header`, `data.packing`, `data.damaged`,
    `data.unpacks_too_far`, `data.not_installed`.
    """
    file = File(path, note)
    yield from READERS[file.kind](file)


def sample(path: Path) -> Iterator[Item]:
    """Rows that tell the shape of a file: all of them, or of a large file of JSON lines some of every part
    (whose lines have no numbers), or the first of a long table. Raises as `read` does."""
    file = File(path)
    if file.kind in (".jsonl", ".ndjson") and path.stat().st_size > BIG and not _spread_out(file):
        with file.utf8() as stream:
            if stream.seekable():
                yield from _places(stream, path.stat().st_size)
                return
    yield from _first(read(path), MANY) if file.kind in TABLES else read(path)


def readable(path: Path) -> bool:
    """Whether its suffix, below one of a packing, is in the table."""
    return packed.suffix(path) in READERS


def jsonl(file: File) -> Iterator[Item]:
    """One object per line, empty lines are skipped; or objects over several lines each, the first opened by a line
    that holds nothing but its brace. Raises InputError (`data.array`) for an array, which is one bad row."""
    if _is_array(file):
        raise InputError(
            "this is one JSON array, not an object per line",
            code="data.array",
            where=str(file.path),
            hint=f"Name the file {file.path.name.replace(file.kind, '.json')}.",
        )
    if _spread_out(file):
        with file.utf8() as stream:
            yield from _parsed(file, elements.objects(stream))
        return
    for line, raw in _lines(file):
        if raw.strip(SPACE):
            yield _item(file, line, raw)


def json(file: File) -> Iterator[Item]:
    """An array of objects, an object that holds one under a key of its own, one object, or objects as in `jsonl`."""
    start = file.head().lstrip(SPACE)[:1]
    with file.utf8() as stream:
        if start == b"[":
            yield from _parsed(file, elements.split(stream))
            return
        raw = stream.read(WHOLE + 1) if start == b"{" else b""
    if (place := _held(raw)) is not None:
        inner = elements.split(io.BytesIO(raw[place:]), raw.count(b"\n", 0, place) + 1, enclosed=True)
        yield from _parsed(file, inner)
    elif len(raw) <= WHOLE and start == b"{" and not isinstance(parse(raw), RowError):
        yield _item(file, 1, raw)
    else:
        yield from jsonl(file)


def lines(file: File) -> Iterator[Item]:
    """Plain text: each line that is not blank is one document."""
    with file.text() as stream:
        rows = Lines(stream)
        for number, line in enumerate(rows, 1):
            start, refused = rows.start or line, rows.refused()
            rows.start = ""
            if refused or line.strip():
                text = line.rstrip("\r\n")
                yield number, refused or bad_text([text]) or {"text": text}, printable(start).rstrip()


READERS: dict[str, Callable[[File], Iterator[Item]]] = {
    ".arrow": arrow,
    ".csv": table,
    ".feather": arrow,
    ".htm": html,
    ".html": html,
    ".json": json,
    ".jsonl": jsonl,
    ".markdown": markdown,
    ".md": markdown,
    ".ndjson": jsonl,
    ".parquet": parquet,
    ".tsv": table,
    ".txt": lines,
}


def _item(file: File, line: int, raw: bytes) -> Item:
    value = parse(raw)
    if file.note is not ignore and isinstance(value, dict):
        for key in twice(raw, value):
            file.note(line, "json.duplicate_key", f"the key {key!r} stands twice in one object; the last value counts")
    return line, value, shown(raw)


def _parsed(file: File, parts: Iterator[Part]) -> Iterator[Item]:
    for line, part in parts:
        if isinstance(part, RowError):
            yield line, part, ""
        else:
            yield _item(file, line, part)


def _held(raw: bytes) -> int | None:
    """Where the array of rows begins, in an object whose only list it is: `{"version": 1, "data": [{…}, …]}`."""
    try:
        value = orjson.loads(raw) if raw and len(raw) <= WHOLE else {}
    except orjson.JSONDecodeError:
        return None
    held = [key for key, item in value.items() if isinstance(item, list)]
    if len(held) != 1 or held[0] not in ("data", "rows", "train", "examples") or not value[held[0]]:
        return None
    match = re.search(rb'"' + held[0].encode() + rb'"\s*:\s*\[', raw)
    return match.end() - 1 if match else None


def _spread_out(file: File) -> bool:
    """Whether each object stands on several lines."""
    return file.head().lstrip(SPACE).partition(b"\n")[0].strip(SPACE) == b"{"


def _is_array(file: File) -> bool:
    """Whether the file is an array of objects, on one line or on several."""
    first, _, rest = file.head().lstrip(SPACE).partition(b"\n")
    first = first.rstrip(SPACE)
    opened = first == b"[" or (first.startswith(b"[") and first[1:].lstrip(SPACE).startswith(b"{"))
    return opened and (not rest.strip(SPACE) or first.endswith((b"[", b"{", b",")))


def _first(items: Iterator[Item], count: int) -> Iterator[Item]:
    """As far as it takes to have so many good rows."""
    for item in items:
        yield item
        count -= isinstance(item[1], dict)
        if not count:
            return


def _places(stream: IO[bytes], size: int) -> Iterator[Item]:
    """Some rows at each of the places of a file."""
    for place in range(PLACES):
        if place:
            stream.seek(size * place // PLACES)
            stream.readline(LINE + 1)  # from somewhere in a line to its end
        for _ in range(ROWS):
            raw = stream.readline(LINE + 1)
            if raw.strip(SPACE):
                yield 0, parse(raw), shown(raw)


def _lines(file: File) -> Iterator[tuple[int, bytes]]:
    """Numbered lines, without reading an endless one."""
    with file.utf8() as stream:
        number = 0
        while raw := stream.readline(LINE + 1):
            number += 1
            more = raw
            while len(more) > LINE and not more.endswith(b"\n"):
                more = stream.readline(LINE + 1)  # skip the rest of a line that `parse` refuses
            yield number, raw
