"""Readers: rows with their lines, bad ones named, the rest goes on."""

from __future__ import annotations

import gzip
import io
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from truetune.data import elements, readers
from truetune.data.reading import values
from truetune.data.rows import RowError
from truetune.errors import InputError


def rows(path: Path, content: str | bytes) -> list[tuple[int, Any]]:
    """(line, row or code of the refusal)."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return [(line, value.code if isinstance(value, RowError) else value) for line, value, _ in readers.read(path)]


def test_jsonl_goes_on_after_a_bad_line(tmp_path: Path) -> None:
    found = rows(tmp_path / "a.jsonl", '\ufeff{"a": 1}\n\n{"a": \r\n[1]\n{"a": 2}')
    assert found == [(1, {"a": 1}), (3, "json.syntax"), (4, "data.not_an_object"), (5, {"a": 2})]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ('{"a": NaN}', "json.syntax"),
        ('{"a": -Infinity}', "json.syntax"),
        ('{"a": 1, b: NaN}', "json.syntax"),
        ('{"a": "\\ud800"}', "json.surrogate"),
        ('{"a": 1e999}', "json.number"),
        ('{"a": "\\u0000"}', "data.nul"),
        ('{"a": ' + "[" * 64 + "]" * 64 + "}", "data.too_deep"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "data.too_deep"),
        (b'{"a": "\xff"}', "data.encoding"),
        (b'{"a": "\xff}', "json.syntax"),
        ('{"a": 1}\x0c', "json.syntax"),
        ('{"a": 1} x', "json.syntax"),
    ],
)
def test_json_that_is_refused(tmp_path: Path, line: str | bytes, code: str) -> None:
    assert rows(tmp_path / "a.jsonl", line) == [(1, code)]


@pytest.mark.parametrize(
    "line", ['{"a": "\\\\u0000"}', '{"a": "' + "[" * 100 + '"}', '{"a": ' + "[" * 63 + "]" * 63 + "}"]
)
def test_json_that_only_looks_bad(tmp_path: Path, line: str) -> None:
    assert rows(tmp_path / "a.jsonl", line) == [(1, json.loads(line))]


def test_an_endless_line_is_one_reject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "LINE", 50)
    monkeypatch.setattr(values, "LINE", 50)
    found = rows(tmp_path / "a.jsonl", '{"a": "' + "x" * 500 + '"}\n{"a": 1}\n{"a": "' + "x" * 40 + '"}')
    assert found == [(1, "data.too_big"), (2, {"a": 1}), (3, {"a": "x" * 40})]


def test_an_array_has_lines_for_its_elements(tmp_path: Path) -> None:
    text = '\n[\n {"a": "],{"},\n\n {"a": 1\n }, {"a": tru}, 5,\n {"a": [2, {}]}\n]\n'
    expected = [(3, {"a": "],{"}), (5, {"a": 1}), (6, "json.syntax"), (6, "data.not_an_object"), (7, {"a": [2, {}]})]
    assert rows(tmp_path / "a.json", text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[]", []),
        ("[ \n ]", []),
        ('[{"a": 1},]', [(1, {"a": 1}), (1, "json.syntax")]),
        ('[{"a": 1},\n{"a": 2}', [(1, {"a": 1}), (2, "data.broken_file")]),
        ('[{"a": 1},\n{"a": "x\n"}]', [(1, {"a": 1}), (2, "data.broken_file")]),
        ('[{"a": 1}}', [(1, {"a": 1}), (1, "data.broken_file")]),
        ('[{"a": 1}]\nx', [(1, {"a": 1}), (2, "data.broken_file")]),
        ('{"version": 1, "data": [{"a": 1},\n{"a": 2}]}', [(1, {"a": 1}), (2, {"a": 2})]),
        ('{"messages": [1]}', [(1, {"messages": [1]})]),
        ('{\n"a": 1}', [(1, {"a": 1})]),
        ('{"a": 1}\n{"a": 2}', [(1, {"a": 1}), (2, {"a": 2})]),
        ("x", [(1, "json.syntax")]),
        ("[\x0c]", [(1, "json.syntax")]),
        ('\n{\n"a": 1\n}\n\n{\n"a": {"b": 2}}\n', [(2, {"a": 1}), (6, {"a": {"b": 2}})]),
        ('{\n"a": 1\n}\n{\n"a": x\n}\n', [(1, {"a": 1}), (4, "json.syntax")]),
        ('{\n"a": 1\n}\n{\n"a": 2\n', [(1, {"a": 1}), (4, "data.broken_file")]),
        ('{\n"a": 1\n}\n]\n', [(1, {"a": 1}), (4, "data.broken_file")]),
    ],
)
def test_json_files(tmp_path: Path, text: str, expected: list[tuple[int, Any]]) -> None:
    assert rows(tmp_path / "a.json", text) == expected


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.text(alphabet=st.characters(codec="utf-8"))),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=8,
)


@given(st.lists(json_values), st.sampled_from([None, 1]), st.booleans())
def test_elements_are_those_of_the_array(items: list[Any], indent: int | None, ascii_only: bool) -> None:
    try:
        raw = json.dumps(items, indent=indent, ensure_ascii=ascii_only).encode()
    except UnicodeEncodeError:
        return
    found = list(elements.split(io.BytesIO(raw)))
    assert all(isinstance(part, bytes) for _, part in found)
    assert [json.loads(part) for _, part in found if isinstance(part, bytes)] == items
    lines = [line for line, _ in found]
    assert lines == sorted(lines)


@given(st.lists(json_values), st.integers(1, 40), st.sampled_from([None, 1]))
def test_blocks_of_any_size_give_the_same_elements(items: list[Any], block: int, indent: int | None) -> None:
    raw = json.dumps(items, indent=indent).encode() + b"\n\n"
    with pytest.MonkeyPatch.context() as patch:
        whole = list(elements.split(io.BytesIO(raw)))
        patch.setattr(elements, "BLOCK", block)
        assert list(elements.split(io.BytesIO(raw))) == whole
        patch.setattr(values, "LINE", 30)
        small = list(elements.split(io.BytesIO(raw)))
    assert [line for line, _ in small] == [line for line, _ in whole]
    for (_, part), (_, full) in zip(small, whole, strict=True):
        assert isinstance(full, bytes)
        large = len(full) + len("\n ") > 30 - block  # what stands before an element counts, and a block is read ahead
        assert part == full or (isinstance(part, RowError) and part.code == "data.too_big" and large)


def test_an_element_that_is_too_large_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elements, "BLOCK", 16)
    monkeypatch.setattr(values, "LINE", 64)
    raw = b'[\n{"a": "' + b'\\"' * 500 + b'",\n"b": [' + b"1, " * 300 + b"1]},\n{}\n, " + b'"open' + b"x" * 500
    found = [
        (line, part.code if isinstance(part, RowError) else part) for line, part in elements.split(io.BytesIO(raw))
    ]
    assert found == [(2, "data.too_big"), (4, b"{}"), (5, "data.broken_file")]


@given(st.binary(max_size=60).map(lambda tail: b"[" + tail))
def test_elements_never_fail_on_garbage(raw: bytes) -> None:
    for line, part in elements.split(io.BytesIO(raw)):
        assert 1 <= line <= raw.count(b"\n") + 1
        assert isinstance(part, bytes | RowError)


def test_csv_is_strict(tmp_path: Path) -> None:
    text = 'a,b\r\n1,"x\ny, ""z"""\r\n2\r\n3,4,5\r\n\r\n6,7\r\n8,"u"v\r\n9,10\r\n'
    expected = [
        (2, {"a": "1", "b": 'x\ny, "z"'}),
        (4, "data.ragged_row"),
        (5, "data.ragged_row"),
        (7, {"a": "6", "b": "7"}),
        (8, "csv.syntax"),
        (9, {"a": "9", "b": "10"}),
    ]
    assert rows(tmp_path / "a.csv", text) == expected


def test_columns_of_one_name_would_hide_one_another(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        rows(tmp_path / "a.csv", "q,a,a\n1,2,3\n")
    assert caught.value.finding.code == "data.header" and "'a'" in caught.value.finding.message


def test_a_place_in_a_row_is_a_character_of_it(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"a": NaN}\n')
    found = [value for _, value, _ in readers.read(tmp_path / "a.jsonl")][1]
    assert isinstance(found, RowError) and found.reason.endswith("at character 7 of the row")


def test_text_has_a_document_per_line(tmp_path: Path) -> None:
    assert rows(tmp_path / "a.txt", "one\n\n  \ntwo\r\n") == [(1, {"text": "one"}), (4, {"text": "two"})]


@pytest.mark.parametrize("name", ["a.csv", "a.txt"])
def test_undecodable_lines_are_named(tmp_path: Path, name: str) -> None:
    found = rows(tmp_path / name, b"text\nb\xff\nc\x00\nd\n")
    assert [value for _, value in found][-3:] == ["data.encoding", "data.nul", {"text": "d"}]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv", "a.txt"])
def test_encodings(tmp_path: Path, name: str, encoding: str) -> None:
    text = {"a.csv": "text\né🙂\n", "a.txt": "é🙂\n"}.get(name, '{"text": "é🙂"}\n')
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    assert [value for _, value in rows(tmp_path / name, (mark + text).encode(encoding))] == [{"text": "é🙂"}]


@pytest.mark.parametrize("name", ["a.json", "a.txt"])
def test_torn_utf_16_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError) as caught:
        rows(tmp_path / name, '{"a": 1}'.encode("utf-16") + b"\x00")
    assert caught.value.finding.code == "data.encoding"


@given(st.dictionaries(st.text(max_size=5), json_values, max_size=4))
def test_a_row_is_what_orjson_says(value: dict[str, Any]) -> None:
    try:
        raw = orjson.dumps(value)
    except TypeError:
        return
    parsed = values.parse(raw)
    assert parsed == value or (isinstance(parsed, RowError) and parsed.code == "data.nul")


def test_keys_that_stand_twice_are_noted(tmp_path: Path) -> None:
    text = '{"a": 1, "b": "\\"x\\": y"}\n{"a": 1, "b": 2, "a" : {"c": 1, "c": 2}}\n{"a": {"a": 1}}\n'
    (tmp_path / "a.jsonl").write_text(text)
    notes: list[tuple[int, str, str]] = []
    found = list(readers.read(tmp_path / "a.jsonl", lambda *note: notes.append(note)))
    assert [value for _, value, _ in found][1:] == [{"a": {"c": 2}, "b": 2}, {"a": {"a": 1}}]
    assert [(line, code) for line, code, _ in notes] == [(2, "json.duplicate_key")] * 2
    assert "'c'" in notes[0][2] and "'a'" in notes[1][2]


def test_an_object_that_is_too_large_and_never_closed_is_no_silent_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elements, "BLOCK", 16)
    monkeypatch.setattr(values, "LINE", 32)
    found = list(elements.objects(io.BytesIO(b'{\n"a": ' + b"[1],  " * 40 + b" " * 200)))
    assert [(line, part.code) for line, part in found if isinstance(part, RowError)] == [(1, "data.broken_file")]


@pytest.mark.parametrize("name", ["a.jsonl", "b.jsonl.gz", "c.json", "d.jsonl"])
def test_a_large_file_is_sampled_in_every_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Where it can be: not within a packing, an array, or another encoding."""
    lines = [orjson.dumps({"n": number}) for number in range(20_000)]
    text = b"[" + b",".join(lines) + b"]" if name == "c.json" else b"\n".join(lines)
    text = text.decode().encode("utf-16") if name == "d.jsonl" else text
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    assert len(list(readers.sample(tmp_path / name))) == 20_000
    monkeypatch.setattr(readers, "BIG", 1000)
    found = [value["n"] for _, value, _ in readers.sample(tmp_path / name) if isinstance(value, dict)]
    if name != "a.jsonl":
        assert len(found) == 20_000
        return
    assert len(found) == readers.PLACES * readers.ROWS and len(set(found)) == len(found)
    assert found[0] == 0 and max(found) > 19_000 and max(b - a for a, b in pairwise(found)) < 400
