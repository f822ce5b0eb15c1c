"""A GGUF file is read in Python, within bounds, before native code sees it."""

from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import Any

import pytest

from truetune.errors import InputError
from truetune.models import gguf_header

ALIGNED = 32


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def made(
    path: Path,
    *,
    count: int | None = None,
    keys: int | None = None,
    tensors: list[tuple[str, tuple[int, ...], int, int]] | None = None,
    data: int = 256,
    **more: bytes,
) -> Path:
    """A file with two tensors of float32 and Q8_0, or with what is asked."""
    listed = [("a", (8, 2), 0, 0), ("b", (32, 4), 8, 64)] if tensors is None else tensors
    values = {
        "general.architecture": struct.pack("<I", 8) + text("llama"),
        "general.alignment": struct.pack("<II", 4, ALIGNED),
        "flag": struct.pack("<IB", 7, 1),
        "list": struct.pack("<IIQ", 9, 5, 3) + struct.pack("<3i", 1, 2, 3),
        "words": struct.pack("<IIQ", 9, 8, 2) + text("one") + text("two"),
    } | more
    body = b"GGUF" + struct.pack(
        "<IQQ", 3, len(listed) if count is None else count, len(values) if keys is None else keys
    )
    body += b"".join(text(name) + value for name, value in values.items())
    for name, shape, kind, offset in listed:
        body += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        body += struct.pack("<IQ", kind, offset)
    body += b"\0" * (-len(body) % ALIGNED) + b"\1" * data
    path.write_bytes(body)
    return path


def test_what_a_header_says(tmp_path: Path) -> None:
    found = gguf_header.check(made(tmp_path / "good.gguf"))
    assert found.keys == {
        "general.architecture": "llama",
        "general.alignment": 32,
        "flag": True,
        "list": ("list", 3),
        "words": ("list", 2),
    }
    assert [(each.name, each.shape, each.size) for each in found.tensors] == [("a", (8, 2), 64), ("b", (32, 4), 136)]


LIES: dict[str, dict[str, Any]] = {
    "more tensors than bytes": {"count": 2**60},
    "more tensors than there are": {"count": 3},
    "more keys than bytes": {"keys": 2**63},
    "a text beyond the end": {"more": struct.pack("<IQ", 8, 2**62)},
    "a list beyond the end": {"more": struct.pack("<IIQ", 9, 10, 2**61)},
    "a list of lists of lists": {"more": struct.pack("<IIQ", 9, 9, 1) + struct.pack("<IQ", 9, 1) * 40},
    "an unknown type of key": {"more": struct.pack("<I", 13)},
    "a text that is none": {"more": struct.pack("<IQ", 8, 2) + b"\xff\xfe"},
    "an alignment of zero": {"general.alignment": struct.pack("<II", 4, 0)},
    "a tensor that is longer than the file": {"tensors": [("a", (2**20, 2**10), 0, 0)]},
    "a product that overflows": {"tensors": [("a", (2**33, 2**33, 2**33), 0, 0)]},
    "a place beyond the end": {"tensors": [("a", (8, 2), 0, 2**63)]},
    "a place between places": {"tensors": [("a", (8, 2), 0, 8)]},
    "tensors over each other": {"tensors": [("a", (8, 4), 0, 0), ("b", (8, 2), 0, 32)]},
    "a name twice": {"tensors": [("a", (8, 2), 0, 0), ("a", (8, 2), 0, 64)]},
    "a name that is too long": {"tensors": [("a" * 64, (8, 2), 0, 0)]},
    "five dimensions": {"tensors": [("a", (1, 1, 1, 1, 1), 0, 0)]},
    "no elements": {"tensors": [("a", (0, 2), 0, 0)]},
    "a row that no block divides": {"tensors": [("a", (8, 2), 8, 0)]},
    "an unknown type of numbers": {"tensors": [("a", (8, 2), 99, 0)]},
}


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError) as caught:
        gguf_header.check(made(tmp_path / "bad.gguf", **LIES[name]))
    assert (caught.value.code, caught.value.exit_code) == ("model.bad_gguf", 3) and caught.value.hint


def test_no_mutation_breaks_the_reader(tmp_path: Path) -> None:
    """Bits, bytes, cuts: a header or one typed error, never another one."""
    good = made(tmp_path / "good.gguf").read_bytes()
    draw, path = random.Random(0), tmp_path / "bad.gguf"
    outcomes = {"read": 0, "refused": 0}
    for number in range(1000):
        body = bytearray(good)
        for _ in range(draw.randint(1, 4)):
            at = draw.randrange(min(len(body), 400))
            body[at] = draw.choice([0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)])
        path.write_bytes(body[: draw.randrange(len(body))] if number % 5 == 0 else body)
        try:
            gguf_header.check(path)
            outcomes["read"] += 1
        except InputError as error:
            assert error.code == "model.bad_gguf"
            outcomes["refused"] += 1
    assert outcomes["refused"] > 500 and outcomes["read"] > 0


def test_it_is_no_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.gguf"):
        with pytest.raises(InputError):
            gguf_header.check(path)
