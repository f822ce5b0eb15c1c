"""The header of a GGUF file, read and checked in Python before any native code sees the file.

"GGUF", version, number of tensors, number of keys; the keys with their values; the tensors: name, dimensions, number
type, offset. Then, from the next multiple of the alignment, the data. Every count is held against what is left of the
file, in numbers that do not overflow, and every tensor lies inside the file. Source: the format's description in ggml.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from truetune.errors import InputError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TEXT, ARRAY = 8, 9
BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 10: (256, 84),
    11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 16: (256, 66), 17: (256, 74), 18: (256, 98),
    19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4),
    27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17),
}  # fmt: skip
"""Number type -> (numbers of a block, its bytes)."""
DIMENSIONS, DEPTH = 4, 2
NAME = 64
"""Bytes of a tensor's name, as llama.cpp's own reader limits it."""
KEYS = 2**16


@dataclass(frozen=True)
class Tensor:
    """As the header describes it; `shape` in GGUF's order, the row's length first. `offset` counts from the data."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int

    @property
    def size(self) -> int:
        """Bytes of its data."""
        numbers, size = BLOCKS[self.kind]
        return math.prod(self.shape) // numbers * size


@dataclass(frozen=True)
class Header:
    """`keys` holds scalars and texts; of a list only how long it is, as ("list", n)."""

    keys: dict[str, Any] = field(default_factory=dict)
    tensors: tuple[Tensor, ...] = ()


def check(path: Path) -> Header:
    """The header of a file that is whole. Raises InputError `model.bad_gguf`."""
    try:
        return read(path)
    except (ValueError, OSError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise InputError(
            f"this is no GGUF file that can be trusted: {reason}",
            code="model.bad_gguf",
            where=str(path),
            hint="It is damaged or cut off: copy it again from where it was made.",
        ) from None


def read(path: Path) -> Header:
    """As `check`. Raises ValueError with what is wrong, OSError."""
    length = path.stat().st_size
    with path.open("rb") as file:
        reader = Reader(file, length)
        if reader.take(4) != MAGIC:
            raise ValueError("it does not begin with GGUF")
        if reader.number("I") not in VERSIONS:
            raise ValueError("its version is not known here")
        tensors, keys = reader.number("Q"), reader.number("Q")
        reader.room(tensors, 24)
        reader.room(min(keys, 2**62), 12)
        if keys > KEYS:
            raise ValueError(f"it has {keys:,} keys")
        values = pairs(reader, keys)
        found = [tensor(reader) for _ in range(tensors)]
        place = file.tell()
    check_places(found, values, place, length)
    return Header(values, tuple(found))


class Reader:
    """Takes parts of a file, never more than it has left."""

    def __init__(self, file: BinaryIO, length: int) -> None:
        self.file, self.length = file, length

    def room(self, count: int, size: int) -> None:
        """Raises ValueError where `count` things of at least `size` bytes do not fit into the rest."""
        if count * size > self.length - self.file.tell():
            raise ValueError("it counts more than it holds")

    def take(self, size: int) -> bytes:
        self.room(1, size)
        return self.file.read(size)

    def skip(self, count: int, size: int) -> None:
        self.room(count, size)
        self.file.seek(count * size, 1)

    def number(self, kind: str) -> Any:
        return struct.unpack("<" + kind, self.take(struct.calcsize("<" + kind)))[0]

    def text(self) -> str:
        data = self.take(self.number("Q"))
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            raise ValueError("a text in it is not UTF-8") from None

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind == TEXT:
            return self.text()
        if kind == ARRAY and depth < DEPTH:
            return self.list(depth)
        if kind not in SCALARS:
            raise ValueError("a key has an unknown type")
        if kind == 7 and (flag := self.number("B")) > 1:
            raise ValueError("a flag is neither true nor false")
        return bool(flag) if kind == 7 else self.number(SCALARS[kind])

    def list(self, depth: int) -> tuple[str, int]:
        kind, count = self.number("I"), self.number("Q")
        if kind in SCALARS:
            self.skip(count, struct.calcsize("<" + SCALARS[kind]))
            return "list", count
        self.room(count, 8)
        for _ in range(count):
            self.value(kind, depth + 1)
        return "list", count


def pairs(reader: Reader, count: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(count):
        name = reader.text()
        if not name or name in found:
            raise ValueError("it has a key twice, or one without a name")
        found[name] = reader.value(reader.number("I"))
    return found


def tensor(reader: Reader) -> Tensor:
    name = reader.text()
    count = reader.number("I")
    if not name or len(name.encode()) >= NAME or not 1 <= count <= DIMENSIONS:
        raise ValueError("a tensor has no usable name or shape")
    shape = tuple(reader.number("Q") for _ in range(count))
    kind, offset = reader.number("I"), reader.number("Q")
    if kind not in BLOCKS:
        raise ValueError(f"{name!r} has an unknown type of numbers")
    if not all(shape) or shape[0] % BLOCKS[kind][0] or math.prod(shape) >= 2**63:
        raise ValueError(f"{name!r} has no usable shape")
    return Tensor(name, shape, kind, offset)


def check_places(tensors: list[Tensor], values: dict[str, Any], place: int, length: int) -> None:
    """Every tensor lies inside the file, at a multiple of the alignment, and none lies over another."""
    step = values.get("general.alignment", 32)
    if type(step) is not int or not 8 <= step <= 2**16 or step & (step - 1):
        raise ValueError("its alignment is no power of two")
    start = -(-place // step) * step
    if len({each.name for each in tensors}) < len(tensors):
        raise ValueError("it has a tensor twice")
    end = 0
    for each in sorted(tensors, key=lambda one: one.offset):
        if each.offset % step or each.offset < end:
            raise ValueError(f"{each.name!r} lies over another tensor, or between places")
        end = each.offset + each.size
        if start + end > length:
            raise ValueError(f"{each.name!r} is longer than the file")
