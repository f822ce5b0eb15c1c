"""Readers: rows with their lines, bad ones named, the rest goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from truetune.data import elements, readers
from truetune.data.rows import RowError
from truetune.errors import InputError

SUITE = Path(__file__).parents[3] / "shared" / "data" / "JSONTestSuite" / "test_parsing"


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
        ('{"a": "\\ud800"}', "json.syntax"),
        ('{"a": "\\u0000"}', "data.nul"),
        ('{"a": ' + "[" * 64 + "]" * 64 + "}", "data.too_deep"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "json.syntax"),
        (b'{"a": "\xff"}', "json.syntax"),
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
def test_elements_are_those_of_the_array(values: list[Any], indent: int | None, ascii_only: bool) -> None:
    try:
        raw = json.dumps(values, indent=indent, ensure_ascii=ascii_only).encode()
    except UnicodeEncodeError:
        return
    found = list(elements.split(raw, 0))
    assert all(isinstance(part, bytes) for _, part in found)
    assert [json.loads(part) for _, part in found if isinstance(part, bytes)] == values
    lines = [line for line, _ in found]
    assert lines == sorted(lines)


@given(st.binary(max_size=60).map(lambda tail: b"[" + tail))
def test_elements_never_fail_on_garbage(raw: bytes) -> None:
    for line, part in elements.split(raw, 0):
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


def test_the_public_json_suite() -> None:
    """Verdicts on one value, asked through a row that holds it: `y_` must be taken, `n_` refused."""
    if not SUITE.is_dir():
        pytest.skip("../shared/data/JSONTestSuite is not there")
    for path in sorted(SUITE.glob("[yn]_*.json")):
        if path.name in ("y_string_null_escape.json", "y_string_escaped_control_character.json"):
            continue  # NUL and control characters are JSON, but not training text
        raw = b'{"a": ' + path.read_bytes() + b"}"
        verdict = not isinstance(readers.parse(raw), RowError)
        suspicious = b"u0000" in raw or path.name == "n_structure_open_array_object.json"
        assert verdict is path.name.startswith("y_") or suspicious, path.name


@given(st.dictionaries(st.text(max_size=5), json_values, max_size=4))
def test_a_row_is_what_orjson_says(value: dict[str, Any]) -> None:
    try:
        raw = orjson.dumps(value)
    except TypeError:
        return
    parsed = readers.parse(raw)
    assert parsed == value or (isinstance(parsed, RowError) and parsed.code == "data.nul")
