"""Tokenised data on disk, found again by its content: what went in decides the name of an entry.

An entry is a folder with `ids.i32`, `weights.f32`, `labels.i32`, `index.i64`, `rejects.jsonl` and, written last,
`meta.json` with their hashes and the report. It is written aside and renamed. An entry that is not whole is thrown away
and made again.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import struct
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, overload

import numpy as np
import orjson
from numpy.typing import NDArray

from truetune import paths
from truetune.data.example import Example
from truetune.data.render import Part
from truetune.data.rows import Reject
from truetune.data.stored import Numbers, Stored
from truetune.errors import ResourceError

LIMIT = 8 * 2**30
"""Most bytes of all entries; the ones not used for longest go first."""
STALE = 24 * 3600
"""Seconds after which an unfinished entry belongs to nobody."""
FILES = ("ids.i32", "weights.f32", "labels.i32", "index.i64", "rejects.jsonl")
BUFFER = 2**20
"""Bytes written at once: each writing lets other threads run, and must wait until they let this one."""
COLUMNS, PART = 8, 4
"""Of the index: start, length, supervised tokens, row, part (0 train, 1 validation), where its second text begins,
where its labels start, and how many they are. Examples to train on stand before those to measure on."""
ROW, ROWS = struct.Struct(f"{COLUMNS}q"), 2**16
"""An entry of the index, and how many are moved at once."""


Weighed = Callable[[NDArray[np.int64]], NDArray[np.int64]]
"""From an index to one in which an example may stand more often, or not at all."""


class Examples(Sequence[Example]):
    """Examples over ids, weights and labels, whose parts are read when an example is asked for."""

    def __init__(self, ids: Numbers, weights: Numbers, labels: Numbers, index: NDArray[np.int64]) -> None:
        self._ids, self._weights, self._labels, self._index = ids, weights, labels, index

    def __len__(self) -> int:
        return len(self._index)

    @overload
    def __getitem__(self, place: int) -> Example: ...
    @overload
    def __getitem__(self, place: slice) -> Examples: ...
    def __getitem__(self, place: int | slice) -> Example | Examples:
        if isinstance(place, slice):
            return Examples(self._ids, self._weights, self._labels, self._index[place])
        start, length, _, row, _, second, first, count = map(int, self._index[place])
        label = tuple(self._labels[first : first + count].tolist())
        part = slice(start, start + length)
        return Example(self._ids[part], self._weights[part], row, second, label)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each example."""
        return self._index[:, 1]

    @property
    def supervised_counts(self) -> NDArray[np.int64]:
        """Trained tokens of each example."""
        return self._index[:, 2]

    @property
    def rows(self) -> int:
        """Number of input rows the examples come from."""
        return len(np.unique(self._index[:, 3]))

    @functools.cached_property
    def tokens(self) -> int:
        return int(self.lengths.sum())

    @functools.cached_property
    def supervised(self) -> int:
        return int(self.supervised_counts.sum())


class Entry:
    """A whole entry."""

    def __init__(self, folder: Path, meta: dict[str, Any]) -> None:
        self.folder, self.report = folder, meta["report"]
        ids, weights = Stored(folder / "ids.i32", np.int32), Stored(folder / "weights.f32", np.float32)
        labels, index = Stored(folder / "labels.i32", np.int32), _mapped(folder / "index.i64", "c")
        trained = int(np.searchsorted(index[:, PART], 1))
        self.train = Examples(ids, weights, labels, index[:trained])
        self.validation = Examples(ids, weights, labels, index[trained:])

    @property
    def rejects(self) -> Rejects:
        return Rejects(self.folder / "rejects.jsonl")


class Rejects:
    """Rows that are not used, as JSON-ready objects; iterating again starts anew."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[dict[str, Any]]:
        with self.path.open("rb") as stream:
            yield from map(orjson.loads, stream)


class Writer:
    """Writes an entry aside."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ids, self._weights = ((folder / name).open("wb", BUFFER) for name in ("ids.i32", "weights.f32"))
        self._rejects = (folder / "rejects.jsonl").open("wb")
        self._index, self._labels = (folder / "index.i64").open("wb", BUFFER), array("i")
        self._at = 0

    def add(self, part: Part, row: int, label: Sequence[int] = ()) -> None:
        """`label` are classes by the numbers that `finish` renames."""
        with _explained():
            self._ids.write(part.ids.tobytes())
            self._weights.write(part.weights.tobytes())
            place = (self._at, len(part.ids), part.supervised, row, 0)
            self._index.write(ROW.pack(*place, part.second, len(self._labels), len(label)))
        self._labels.extend(label)
        self._at += len(part.ids)

    def reject(self, reject: Reject) -> None:
        with _explained():
            self._rejects.write(orjson.dumps(reject) + b"\n")

    def finish(
        self, validation: set[int], weighed: Weighed, classes: NDArray[np.int32] | None = None
    ) -> NDArray[np.int64]:
        """Close the files; `validation` are the rows that are held out, `weighed` says how often each example stands
        in the index, `classes` renames the labels. Returns the index."""
        labels = np.array(self._labels, np.int32)
        labels = labels if classes is None else classes[labels]
        with _explained():
            self.close()
            labels.tofile(self.folder / "labels.i32")
            index = _mapped(self.folder / "index.i64", "r+")
            index[:, PART] = np.isin(index[:, 3], np.fromiter(validation, np.int64, len(validation)))
            _put_apart(index)
            chosen = weighed(index)
            if chosen is not index:
                chosen.tofile(self.folder / "index.i64")
        return chosen

    def close(self) -> None:
        for stream in (self._ids, self._weights, self._rejects, self._index):
            stream.close()


def key(parts: Any) -> str:
    """The name of an entry for JSON-ready `parts`."""
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()


def find(name: str) -> Entry | None:
    """The whole entry of this name, if there is one; it counts as used now."""
    folder = _root() / name
    try:
        meta = orjson.loads((folder / "meta.json").read_bytes())
        if any(_digest(folder / file) != meta["files"][file] for file in FILES):
            return None
        os.utime(folder / "meta.json")
        return Entry(folder, meta)
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def writing(name: str) -> Iterator[Writer]:
    """A writer into a folder aside, which is gone afterwards unless `commit` moved it into place."""
    with _explained():
        _root().mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{name[:16]}-", dir=_root()))
        writer = Writer(folder)
    try:
        yield writer
    finally:
        with suppress(OSError):
            writer.close()
        shutil.rmtree(folder, ignore_errors=True)


def commit(writer: Writer, name: str, report: dict[str, Any]) -> Entry:
    """Put the entry in its place and keep the cache within its limit."""
    meta = {"report": report, "files": {file: _digest(writer.folder / file) for file in FILES}}
    with _explained():
        (writer.folder / "meta.json").write_bytes(orjson.dumps(meta))
    target = _root() / name
    shutil.rmtree(target, ignore_errors=True)
    try:
        writer.folder.rename(target)
    except OSError:
        if find(name) is None:  # else another process was faster, with the same content
            raise
    prune(keep=name)
    return Entry(target, meta)


def prune(keep: str, limit: int | None = None) -> None:
    """Remove the entries used longest ago until the others fit `limit` bytes (`LIMIT` unless told)."""
    limit = LIMIT if limit is None else limit
    entries = []
    for folder in _root().iterdir():
        used = _used(folder)
        if folder.name.startswith("."):
            if time.time() - used > STALE:
                shutil.rmtree(folder, ignore_errors=True)
        else:
            size = sum(file.stat().st_size for file in folder.iterdir())
            entries.append((folder.name == keep, used, folder, size))
    entries.sort(key=lambda entry: entry[:2], reverse=True)
    total = 0
    for kept, _, folder, size in entries:
        total += size
        if total > limit and not kept:
            shutil.rmtree(folder, ignore_errors=True)


def _root() -> Path:
    return paths.cache() / "tokens"


def _used(folder: Path) -> float:
    """When an entry was last used; a damaged one long ago."""
    try:
        return (folder if folder.name.startswith(".") else folder / "meta.json").stat().st_mtime
    except OSError:
        return 0.0


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _mapped(path: Path, mode: str) -> NDArray[np.int64]:
    """An index, of which the system drops what it needs the memory for. `r+` changes the file, `c` does not."""
    if not path.stat().st_size:
        return np.zeros((0, COLUMNS), np.int64)
    return np.asarray(np.memmap(path, np.int64, mode)).reshape(-1, COLUMNS)  # type: ignore[call-overload]


def _put_apart(index: NDArray[np.int64]) -> None:
    """Examples to train on first, both sides in their order."""
    held, at = index[index[:, PART] == 1], 0
    for start in range(0, len(index), ROWS):
        some = index[start : start + ROWS]
        some = some[some[:, PART] == 0]
        index[at : at + len(some)] = some
        at += len(some)
    index[at:] = held


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ResourceError(
            f"tokenised data can't be written: {error.strerror}",
            code="data.cache",
            where=str(_root()),
            hint="Make room, or point TRUETUNE_HOME at a folder that can be written.",
        ) from error
