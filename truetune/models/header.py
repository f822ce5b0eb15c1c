"""The header of a safetensors file, read and checked in Python before any other code sees the file.

8 bytes: N, the length of the header, little-endian. N bytes of JSON: {"__metadata__": {text: text}, "name": {"dtype",
"shape", "data_offsets": [begin, end]}}. Then the data, to which the offsets refer. The tensors lie one after another
without gaps or overlaps, and fill the data exactly; so no tensor can claim memory that the file does not have.
Source: the format's description in the safetensors repository.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from truetune.errors import InputError

BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64, "F16": 16,
    "BF16": 16, "F32": 32, "F64": 64, "C64": 64, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip
LARGEST = 100_000_000
"""Bytes of a header, as the format's own readers limit it."""
DIMENSIONS = 16


@dataclass(frozen=True)
class Tensor:
    """A tensor as its header describes it; `dtype` in the words of safetensors (`BF16`, `F32`)."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def read(path: Path) -> list[Tensor]:
    """Every tensor of a file in the header's order. Raises ValueError with what is wrong, OSError."""
    return parts(path)[0]


def parts(path: Path) -> tuple[list[Tensor], dict[str, str]]:
    """Every tensor, and the texts that stand beside them. Raises as `read`."""
    with path.open("rb") as file:
        length = path.stat().st_size
        size = int.from_bytes(file.read(8), "little")
        if length < 8 or size > min(LARGEST, length - 8):
            raise ValueError("its header is longer than the file")
        text = file.read(size)
    entries = _parse(text)
    metadata = entries.pop("__metadata__", None) or {}  # MLX writes null where there is none
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata is not text")
    spans = [_entry(name, entry) for name, entry in entries.items()]
    _check_order([(begin, end) for _, begin, end in spans], length - 8 - size)
    return [tensor for tensor, _, _ in spans], metadata


def _parse(text: bytes) -> dict[str, Any]:
    try:
        entries = json.loads(text.decode("utf-8"), object_pairs_hook=_once)
    except RecursionError as error:
        raise ValueError("its header is nested too deeply") from error
    if not isinstance(entries, dict):
        raise ValueError("its header is not an object")
    return entries


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("its header has a name twice")
    return found


def _entry(name: str, entry: Any) -> tuple[Tensor, int, int]:
    """The tensor with the place of its data. Python's numbers do not overflow."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"its header does not describe {name[:80]!r}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    bits = BITS.get(dtype) if isinstance(dtype, str) else None
    if bits is None:
        raise ValueError(f"{name[:80]!r} has an unknown type of numbers")
    if not _counts(shape) or len(shape) > DIMENSIONS or not _counts(offsets) or len(offsets) != 2:
        raise ValueError(f"{name[:80]!r} has no usable shape or place")
    tensor, (begin, end) = Tensor(name, dtype, tuple(shape)), offsets
    if (end - begin) * 8 != tensor.size * bits:
        raise ValueError(f"{name[:80]!r} is of another size than its shape says")
    return tensor, begin, end


def _counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _check_order(spans: list[tuple[int, int]], length: int) -> None:
    place = 0
    for begin, end in sorted(spans):
        if begin != place:
            raise ValueError("its tensors overlap, or have gaps between them")
        place = end
    if place != length:
        raise ValueError("its data is cut off or too long")


def damaged(path: Path, error: Exception, code: str) -> InputError:
    """What an engine says of a file of tensors that is not whole."""
    reason = (isinstance(error, OSError) and error.strerror) or str(error)
    return InputError(
        f"the file of tensors cannot be read: {reason}",
        code=code,
        where=str(path),
        hint="It is damaged or cut off: copy it again from where it was made.",
    )
