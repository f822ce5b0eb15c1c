"""Parquet, Arrow and Feather: rows as JSON would hold them, bad ones by their number, damage in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from truetune.data import readers
from truetune.data.formats import detect
from truetune.data.reading import columns
from truetune.data.rows import RowError
from truetune.errors import InputError

pa = pytest.importorskip("pyarrow", reason="pyarrow, the extra `tables`, is not installed")
feather = pytest.importorskip("pyarrow.feather")
parquet = pytest.importorskip("pyarrow.parquet")


def write(path: Path, table: Any) -> Path:
    """As the suffix says; `s.arrow` in the stream format."""
    if path.suffix == ".parquet":
        parquet.write_table(table, path, row_group_size=3)
    elif path.suffix == ".feather":
        feather.write_feather(table, path)
    else:
        new = pa.ipc.new_stream if path.stem == "s" else pa.ipc.new_file
        with new(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=3)
    return path


def rows(path: Path) -> list[tuple[int, Any]]:
    return [(line, value.code if isinstance(value, RowError) else value) for line, value, _ in readers.read(path)]


NAMES = pytest.mark.parametrize("name", ["a.parquet", "a.feather", "a.arrow", "s.arrow"])


@NAMES
def test_conversations_come_back(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "BATCH", 2)
    turns = [{"role": "user", "content": "q🙂"}, {"role": "assistant", "content": "a"}]
    values = [{"id": number, "messages": turns * (number % 3 + 1)} for number in range(10)]
    found = rows(write(tmp_path / name, pa.Table.from_pylist(values)))
    assert found == list(enumerate(values, 1))
    assert detect(value for _, value in found).shape.name == "messages"


@NAMES
def test_bad_rows_are_named_by_number(tmp_path: Path, name: str) -> None:
    raw = pa.array([b"one", b"t\xffwo", b"th\0ree", b"four"])
    text = pa.Array.from_buffers(pa.string(), 4, raw.buffers())
    found = rows(write(tmp_path / name, pa.table({"text": text})))
    assert found == [(1, {"text": "one"}), (2, "data.encoding"), (3, "data.nul"), (4, {"text": "four"})]


@NAMES
def test_values_that_json_does_not_know_do_no_harm(tmp_path: Path, name: str) -> None:
    table = pa.table(
        {"text": pa.array(["a", None]).dictionary_encode(), "score": [float("nan"), 1.0], "raw": [b"\xff", b""]}
    )
    assert [value["text"] for _, value in rows(write(tmp_path / name, table))] == ["a", None]


@NAMES
def test_damage_is_one_sentence(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, pa.table({"text": ["some text"] * 1000}))
    whole = path.read_bytes()
    for raw in (b"", b"text\n", whole[: len(whole) // 2], whole[:200] + b"\xff" * 100):
        path.write_bytes(raw)
        with pytest.raises(InputError) as caught:
            rows(path)
        assert caught.value.finding.code == "data.damaged" and "\n" not in caught.value.finding.message


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "s.arrow"])
def test_columns_of_one_name_would_hide_one_another(tmp_path: Path, name: str) -> None:
    table = pa.Table.from_arrays([pa.array(["x"]), pa.array(["y"])], names=["a", "a"])
    with pytest.raises(InputError) as caught:
        rows(write(tmp_path / name, table))
    assert caught.value.finding.code == "data.header"


def test_columns_in_another_packing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet.gz").write_bytes(b"")
    with pytest.raises(InputError) as caught:
        rows(tmp_path / "a.parquet.gz")
    assert caught.value.finding.code == "data.packing"
