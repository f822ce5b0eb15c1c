"""Rows out of Parquet, Arrow and Feather files, a batch at a time. They have no lines: a row's place is its number.

Lists of structs become lists of objects, so conversations read as they do in JSON. Every batch is validated before it
is looked into, because its offsets come from the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from truetune.data.reading import library, packed, values
from truetune.data.reading.file import File
from truetune.data.reading.values import DEPTH, Item, Value
from truetune.data.rows import RAW_LIMIT, RowError
from truetune.errors import InputError

BATCH = 512
"""Rows that are Python objects at a time."""


def parquet(file: File) -> Iterator[Item]:
    """Raises InputError: `data.damaged`, `data.header`, `data.packing`, `data.not_installed`."""
    reader = library("pyarrow.parquet", file.path)
    with _explained(file, "Parquet"), reader.ParquetFile(str(file.path), memory_map=True) as table:
        _check_names(file, table.schema_arrow.names)
        yield from _rows(table.iter_batches(BATCH, use_threads=False))


def arrow(file: File) -> Iterator[Item]:
    """Arrow's file format, which Feather's second version is, or its stream format. Raises as `parquet` does."""
    library_ = library("pyarrow", file.path)
    with _explained(file, "Arrow"), library_.memory_map(str(file.path)) as source:
        framed = bytes(source.read(6)) == b"ARROW1"
        source.seek(0)
        table = library_.ipc.open_file(source) if framed else library_.ipc.open_stream(source)
        _check_names(file, table.schema.names)
        batches = map(table.get_batch, range(table.num_record_batches)) if framed else iter(table)
        yield from _rows(part for batch in batches for part in _cut(batch))


def _cut(batch: Any) -> Iterator[Any]:
    return (batch.slice(start, BATCH) for start in range(0, batch.num_rows, BATCH))


def _rows(batches: Iterator[Any]) -> Iterator[Item]:
    number = 0
    for batch in batches:
        for value in _values(batch):
            number += 1
            shown = "" if isinstance(value, RowError) else str(value)[:RAW_LIMIT]
            yield number, value if isinstance(value, RowError) else _checked(value), shown


def _values(batch: Any) -> Iterator[Value]:
    """The rows of a batch; if it does not hold together as a whole, one by one."""
    try:
        batch.validate(full=True)
        yield from batch.to_pylist()
        return
    except (UnicodeDecodeError, ValueError):  # Arrow's own errors of bad content are ValueErrors
        rows = [batch.slice(place, 1) for place in range(batch.num_rows)]
    yield from map(_single, rows)


def _single(row: Any) -> Value:
    try:
        row.validate(full=True)
        value: dict[str, Any] = row.to_pylist()[0]
    except (UnicodeDecodeError, ValueError) as error:
        if "UTF8" in str(error) or isinstance(error, UnicodeDecodeError):
            return RowError("data.encoding", "contains bytes that are not UTF-8")
        return RowError("data.damaged", f"the row is damaged: {error}")
    return value


def _checked(value: dict[str, Any]) -> Value:
    texts = list(values.strings(value))
    if sum(map(len, texts)) > values.LINE:
        return values.too_big()
    if values.depth(value) > DEPTH:
        return values.too_deep()
    return values.bad_text(texts) or value


def _check_names(file: File, names: list[str]) -> None:
    double = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if double is not None:
        hint = "Give each column a name of its own."
        raise InputError(f"two columns are called {double!r}", code="data.header", where=str(file.path), hint=hint)


@contextmanager
def _explained(file: File, kind: str) -> Iterator[None]:
    """Errors of the library as ours, and a sentence for those who pack what is packed."""
    if file.path.suffix.lower() in packed.SUFFIXES:
        raise InputError(
            f"{kind} files pack their columns themselves and are not read out of another packing",
            code="data.packing",
            where=str(file.path),
            hint="Unpack it first.",
        )
    try:
        yield
    except (OSError, ValueError, NotImplementedError, KeyError) as error:
        raise InputError(
            f"not a {kind} file that can be read: {str(error).partition(chr(10))[0]}",
            code="data.damaged",
            where=str(file.path),
            hint="Write or copy it again.",
        ) from error
