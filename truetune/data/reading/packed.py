"""Files packed with gzip or zstd, unpacked as they are read, and no further than an honest file goes."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path
from typing import IO, Any

from truetune.data.reading import library
from truetune.errors import InputError

SUFFIXES = (".gz", ".zst")
STARTS = {".gz": ("gzip", (b"\x1f\x8b",)), ".zst": ("zstd", (b"\x28\xb5\x2f\xfd", b"\x2a\x4d\x18"))}
"""Name of each packing, and the bytes it begins with; a zstd file may begin with a frame to be skipped."""
FREE = 256 * 2**20
"""Bytes that any file may unpack to."""
BUFFER = 2**20
"""Bytes read at once: each reading lets other threads run, and must wait until they let this one."""
RATIO = 200
"""Times its size that a file may unpack to beyond that: texts shrink to a third or a tenth, bombs to a thousandth."""


def suffix(path: Path) -> str:
    """The suffix that says what a file holds, below that of its packing: `.jsonl` of `rows.jsonl.gz`."""
    last = path.suffix.lower()
    return Path(path.stem).suffix.lower() if last in SUFFIXES else last


def opened(path: Path) -> IO[bytes]:
    """The content of a file, packed or not. Reading raises InputError: `data.packing`, `data.unpacks_too_far`."""
    last = path.suffix.lower()
    if last == ".gz":
        return io.BufferedReader(_Unpacked(gzip.open(path, "rb"), path), BUFFER)
    if last == ".zst":
        arrow = library("pyarrow", path)
        return io.BufferedReader(_Unpacked(arrow.CompressedInputStream(arrow.OSFile(str(path)), "zstd"), path), BUFFER)
    return path.open("rb", BUFFER)


def misnamed(path: Path) -> str | None:
    """What a file is not, although its suffix says so; None where it begins as it should, or is too short to tell."""
    name, starts = STARTS[path.suffix.lower()]
    with path.open("rb") as stream:
        first = stream.read(4)
    begun = any(first.startswith(start) or first[1:] == start for start in starts)
    return None if begun or len(first) < 4 else name


class _Unpacked(io.RawIOBase):
    """Counts what comes out, and says in a sentence what the packing's library says in many ways."""

    def __init__(self, stream: Any, path: Path) -> None:
        self._stream, self._path, self._count = stream, path, 0
        self._limit = max(FREE, RATIO * path.stat().st_size)

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        try:
            block = self._stream.read(len(target))
        except (EOFError, OSError, ValueError, zlib.error) as error:
            if (name := misnamed(self._path)) is not None:
                message, hint = f"it is not {name}, although its name says so", f"Name it {self._path.stem}."
                raise self._error("data.packing", message, hint) from error
            raise self._error(
                "data.packing", f"the packed file is damaged: {error}", "Pack or copy it again."
            ) from error
        self._count += len(block)
        if self._count > self._limit:
            reason = f"it unpacks to more than {RATIO} times its size"
            raise self._error("data.unpacks_too_far", reason, "Unpack it yourself if you trust it.")
        target[: len(block)] = block
        return len(block)

    def close(self) -> None:
        self._stream.close()
        super().close()

    def _error(self, code: str, message: str, hint: str) -> InputError:
        return InputError(message, code=code, where=str(self._path), hint=hint)
