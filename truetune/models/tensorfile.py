"""safetensors files read and written a tensor at a time, or a part of one: models larger than the memory go through.

The layout is that of `truetune.models.header`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from truetune.models import header

BLOCK = 1 << 22
"""Bytes that are copied at once."""


@dataclass(frozen=True)
class Place:
    """A tensor and where its bytes stand in its file."""

    file: Path
    tensor: header.Tensor
    begin: int
    size: int

    @property
    def rows(self) -> int:
        """Of a matrix, or of whatever has a first dimension."""
        return self.tensor.shape[0] if self.tensor.shape else 1

    def read(self, first: int = 0, last: int | None = None) -> bytearray:
        """The bytes of rows `first … last − 1`. Raises OSError, ValueError for a file that was cut off meanwhile."""
        width = self.size // max(self.rows, 1)
        last = self.rows if last is None else last
        found = bytearray((last - first) * width)
        with self.file.open("rb", buffering=0) as file:
            file.seek(self.begin + first * width)
            view = memoryview(found)
            while view:
                count = file.readinto(view)
                if not count:
                    raise ValueError("the file ends before its tensors do")
                view = view[count:]
        return found


def places(path: Path) -> list[Place]:
    """Every tensor of a file, in the order of its data. Raises ValueError with what is wrong, OSError."""
    header.read(path)
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(size))
    found = []
    for name, entry in entries.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            tensor = header.Tensor(name, entry["dtype"], tuple(entry["shape"]))
            found.append(Place(path, tensor, 8 + size + begin, end - begin))
    return sorted(found, key=lambda place: place.begin)


def write(path: Path, tensors: Iterable[header.Tensor], data: Iterator[bytes], texts: Mapping[str, str]) -> None:
    """A new file of these tensors, whose bytes come one after another in parts of any size. Raises OSError, ValueError
    where they are more or fewer than the tensors have."""
    place, entries = 0, dict[str, object]()
    if texts:
        entries["__metadata__"] = dict(texts)
    for tensor in tensors:
        end = place + tensor.size * header.BITS[tensor.dtype] // 8
        entries[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        if written(file, data) != place:
            raise ValueError("other bytes than the tensors have")


def written(file: BinaryIO, data: Iterator[bytes]) -> int:
    count = 0
    for part in data:
        file.write(part)
        count += len(part)
    return count


def copied(place: Place) -> Iterator[bytes]:
    """The bytes of a tensor as they are, in blocks."""
    with place.file.open("rb") as file:
        file.seek(place.begin)
        left = place.size
        while left:
            part = file.read(min(BLOCK, left))
            if not part:
                raise ValueError("the file ends before its tensors do")
            left -= len(part)
            yield part
