"""Packed files and files by the folder: read as the plain ones are, and no further than is honest."""

from __future__ import annotations

import gzip
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import orjson
import pytest

from truetune.data import elements, readers, sources
from truetune.data.reading import file as files
from truetune.data.reading import packed
from truetune.data.rows import RowError
from truetune.errors import InputError

CONTENT = {
    "a.json": b'[{"text": "one"}, {"text": "two"}]',
    "a.jsonl": b'{"text": "one"}\n{"text": "two"}\n',
    "a.csv": b"text\none\ntwo\n",
    "a.tsv": b"text\none\ntwo\n",
    "a.txt": b"one\ntwo\n",
}


def zstd(raw: bytes) -> bytes:
    return bytes(pytest.importorskip("pyarrow").compress(raw, codec="zstd", asbytes=True))


def rows(path: Path) -> list[Any]:
    return [value.code if isinstance(value, RowError) else value for _, value, _ in readers.read(path)]


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".zst", zstd), (".GZ", gzip.compress)])
@pytest.mark.parametrize("name", CONTENT)
def test_packed_files_are_read_as_the_plain_ones(tmp_path: Path, name: str, suffix: str, pack: Any) -> None:
    path = tmp_path / f"{name}{suffix}"
    path.write_bytes(pack(CONTENT[name]))
    assert rows(path) == [{"text": "one"}, {"text": "two"}]
    assert [source.path for source in sources.find([path.name], tmp_path)] == [path]


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".zst", zstd)])
@pytest.mark.parametrize("damage", ["torn", "other", "mixed"])
def test_damaged_ones_are_an_error(tmp_path: Path, suffix: str, pack: Any, damage: str) -> None:
    raw = pack(b'{"text": "one"}\n' * 1000)
    middle = len(raw) // 2
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes({"torn": raw[:middle], "other": b"text", "mixed": raw[:20] + b"\xff\0" * 9 + raw[38:]}[damage])
    with pytest.raises(InputError) as caught:
        rows(path)
    assert caught.value.finding.code == "data.packing"


def test_two_packed_files_joined_are_one(tmp_path: Path) -> None:
    for suffix, pack in ((".gz", gzip.compress), (".zst", zstd)):
        (tmp_path / f"a.txt{suffix}").write_bytes(pack(b"one\n") + pack(b"two\n"))
        assert len(rows(tmp_path / f"a.txt{suffix}")) == 2


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".zst", zstd)])
def test_a_bomb_is_defused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, pack: Any) -> None:
    monkeypatch.setattr(packed, "FREE", 2**16)
    (tmp_path / f"a.txt{suffix}").write_bytes(pack(b"a line\n" * 2**20))
    with pytest.raises(InputError) as caught:
        rows(tmp_path / f"a.txt{suffix}")
    assert caught.value.finding.code == "data.unpacks_too_far"


def test_packed_data_under_a_plain_name_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(gzip.compress(b"{}"))
    with pytest.raises(InputError) as caught:
        rows(tmp_path / "a.jsonl")
    assert caught.value.finding.code == "data.binary" and ".gz" in caught.value.finding.hint


def test_a_library_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt.zst").write_bytes(zstd(b"one"))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError) as caught:
        rows(tmp_path / "a.txt.zst")
    assert caught.value.finding.code == "data.not_installed" and "truetune[tables]" in caught.value.finding.hint


def test_a_folder_of_mixed_files_without_what_is_about_it(tmp_path: Path) -> None:
    for name, content in CONTENT.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(CONTENT["a.jsonl"]))
    for name in ("README.txt", "LICENSE.txt", ".hidden.txt", "dataset_info.json", "image.png"):
        (tmp_path / name).write_bytes(b"no rows")
    found = sources.find([str(tmp_path)], tmp_path)
    assert [source.name for source in found] == [*sorted(CONTENT), "b.jsonl.gz"]


@pytest.mark.parametrize("packing", ["", ".gz"])
def test_an_array_is_never_held_as_a_whole(tmp_path: Path, packing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elements, "BLOCK", 2**16)
    monkeypatch.setattr(files, "SAMPLE", 2**16)
    raw = orjson.dumps([{"text": f"{number} " * 150} for number in range(9_000)])
    assert len(raw) > 6 * 2**20
    path = tmp_path / f"a.json{packing}"
    path.write_bytes(gzip.compress(raw, 1) if packing else raw)
    del raw
    tracemalloc.start()
    try:
        count = sum(1 for _ in readers.read(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 9_000 and peak < 5 * 2**20
