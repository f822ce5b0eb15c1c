"""Contents into a file of rows, one by one: JSON lines, a JSON array, CSV or Parquet, by the file's suffix.

The file is written aside, fsynced and renamed into place, so a file that is there is a whole one.
"""

from __future__ import annotations

import csv
import io
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol

import orjson

from truetune.data.notations import NOTATIONS, Notation, to_row
from truetune.data.reading import library
from truetune.data.rows import Content, RowError
from truetune.errors import ResourceError, UsageError

NOTHING: Mapping[str, Any] = {}
BATCH = 512
"""Rows of a Parquet file that are held at a time."""


class Sink(Protocol):
    """Takes rows that are ready, one after another, and what they are followed by."""

    def row(self, row: Mapping[str, Any]) -> None: ...
    def close(self) -> None: ...


class Writer:
    """Writes contents in one notation; `count` is how many."""

    def __init__(self, sink: Sink, notation: Notation, lists: bool) -> None:
        self._sink, self._notation, self._lists = sink, notation, lists
        self.count = 0

    def add(self, content: Content, more: Mapping[str, Any] = NOTHING) -> None:
        """The content, with `more` columns. Raises RowError (`data.notation`) for what this notation or this kind of
        file can't hold."""
        self.put({**to_row(content, self._notation.name, self._lists), **more})

    def put(self, row: Mapping[str, Any]) -> None:
        """A row that is ready, in this notation."""
        self._sink.row(row)
        self.count += 1


@contextmanager
def writer(path: Path, notation: str) -> Iterator[Writer]:
    """A writer whose file stands at `path` once the block has ended well; else nothing does.

    Raises UsageError: `data.notation`, `data.out`; InputError `data.not_installed`; ResourceError `data.write`.
    """
    found, sink = checked(path, notation)
    with stream(path) as raw:
        opened = sink(raw, found, path)
        try:
            yield Writer(opened, found, lists=path.suffix.lower() == ".parquet")
        finally:
            opened.close()


@contextmanager
def stream(path: Path) -> Iterator[IO[bytes]]:
    """A stream into a file that stands at `path` once the block has ended well. Raises ResourceError `data.write`."""
    with _explained(path), _aside(path) as found:
        yield found


def checked(path: Path, notation: str) -> tuple[Notation, Callable[[IO[bytes], Notation, Path], Sink]]:
    """The notation, and what writes files of this suffix. Raises UsageError: `data.notation`, `data.out`."""
    if notation not in NOTATIONS:
        hint = f"Notations: {', '.join(NOTATIONS)}."
        raise UsageError(f"there is no notation {notation!r}", code="data.notation", where=notation, hint=hint)
    if path.suffix.lower() not in SINKS:
        raise UsageError(
            f"{path.suffix or 'a file without a suffix'} is not a format that is written",
            code="data.out",
            where=str(path),
            hint=f"Name the file with {', '.join(SINKS)} at the end.",
        )
    return NOTATIONS[notation], SINKS[path.suffix.lower()]


class Lines:
    """One object per line."""

    def __init__(self, stream: IO[bytes], notation: Notation, path: Path) -> None:
        self._stream = stream

    def row(self, row: Mapping[str, Any]) -> None:
        self._stream.write(_dumped(row) + b"\n")

    def close(self) -> None:
        """Nothing follows the last line."""


class Array:
    """One array, an object per line."""

    def __init__(self, stream: IO[bytes], notation: Notation, path: Path) -> None:
        self._stream, self._next = stream, b"[\n"

    def row(self, row: Mapping[str, Any]) -> None:
        raw = _dumped(row)
        self._stream.write(self._next + raw)
        self._next = b",\n"

    def close(self) -> None:
        self._stream.write(b"[]\n" if self._next == b"[\n" else b"\n]\n")


class Table:
    """CSV as RFC 4180 has it, with every cell in quotes. A cell holds text, so lists have no place."""

    def __init__(self, stream: IO[bytes], notation: Notation, path: Path) -> None:
        kinds = ("text", "words", "flag")
        self._columns = [name for name, kind in notation.columns.items() if kind in kinds]
        self._stream, self._text = stream, io.StringIO(newline="")
        self._csv = csv.writer(self._text, quoting=csv.QUOTE_ALL)
        self._write(self._columns)

    def row(self, row: Mapping[str, Any]) -> None:
        flat(row)
        cells = [row.get(name, "") for name in self._columns]
        self._write([str(cell).lower() if isinstance(cell, bool) else cell for cell in cells])

    def close(self) -> None:
        """Nothing follows the last record."""

    def _write(self, cells: list[str]) -> None:
        self._csv.writerow(cells)
        text = self._text.getvalue()
        self._text.seek(0)
        self._text.truncate()
        self._stream.write(text.encode())


def flat(row: Mapping[str, Any]) -> None:
    """Raises RowError (`data.notation`) for a row that a table of texts can't hold."""
    lists = next((name for name, value in row.items() if not isinstance(value, str | bool)), None)
    if lists is not None:
        raise RowError("data.notation", f"CSV can't hold the list in {lists!r}; JSON lines and Parquet can")


class Parquet:
    """Parquet with one type per column whatever the rows hold: arguments and definitions of tools are JSON text."""

    def __init__(self, stream: IO[bytes], notation: Notation, path: Path) -> None:
        arrow, parquet = library("pyarrow", path), library("pyarrow.parquet", path)
        words = "words" in notation.columns.values()
        self._columns = {name: kind for name, kind in notation.columns.items() if not (words and name == "system")}
        types = _types(arrow)
        self._schema = arrow.schema([(name, types[kind]) for name, kind in self._columns.items()])
        self._arrow, self._file = arrow, parquet.ParquetWriter(stream, self._schema)
        self._rows: list[dict[str, Any]] = []

    def row(self, row: Mapping[str, Any]) -> None:
        kinds = self._columns
        self._rows.append({name: _dumped(row[name]).decode() if kinds[name] == "json" else row[name] for name in row})
        if len(self._rows) == BATCH:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._file.close()

    def _flush(self) -> None:
        if self._rows:
            self._file.write_batch(self._arrow.RecordBatch.from_pylist(self._rows, self._schema))
        self._rows = []


SINKS: dict[str, Callable[[IO[bytes], Notation, Path], Sink]] = {
    ".jsonl": Lines,
    ".json": Array,
    ".csv": Table,
    ".parquet": Parquet,
}


def _types(arrow: Any) -> dict[str, Any]:
    text, listed = arrow.string(), arrow.list_
    labels = [(name, text) for name in ("name", "tool_call_id")] + [("weight", arrow.float64())]
    function = arrow.struct([("name", text), ("arguments", text)])
    call = arrow.struct([("id", text), ("type", text), ("function", function)])
    message = arrow.struct([("role", text), ("content", text), ("tool_calls", listed(call)), *labels])
    turn = arrow.struct([("from", text), ("value", text), *labels])
    return {
        "text": text,
        "json": text,
        "flag": arrow.bool_(),
        "texts": listed(text),
        "pairs": listed(listed(text)),
        "messages": listed(message),
        "words": listed(message),
        "turns": listed(turn),
    }


def _dumped(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError as error:
        raise RowError("data.notation", f"the row can't be written as JSON: {error}") from error


@contextmanager
def _aside(path: Path) -> Iterator[IO[bytes]]:
    """A stream into a file beside `path`, which takes its place at the end."""
    number, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(number, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, 0o666 & ~_mask())
        os.replace(name, path)
        _sync(path.parent)
    finally:
        with suppress(OSError):
            os.unlink(name)


def _sync(folder: Path) -> None:
    """A rename is only as durable as the folder that records it."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _mask() -> int:
    """What this process keeps others from; it can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ResourceError(
            f"the file can't be written: {error.strerror or error}",
            code="data.write",
            where=str(path),
            hint="Make room, or name a folder that is there and can be written.",
        ) from error
