"""Tables in any dialect and texts in any encoding: read right, and said where it was not told."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from truetune.data import readers
from truetune.data.reading import file as files
from truetune.data.reading import values
from truetune.data.rows import RowError
from truetune.errors import InputError

Found = tuple[list[Any], list[tuple[str, str]]]


def rows(path: Path, content: str | bytes) -> Found:
    """Rows or codes of refusals, and (code, message) of the notes."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    notes: list[tuple[str, str]] = []
    found = readers.read(path, lambda line, code, message: notes.append((code, message)))
    return [value.code if isinstance(value, RowError) else value for _, value, _ in found], notes


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", 'q,a\r\nx,"1, ""2"""\r\n', None),
        ("a.csv", 'q;a\nx;"1, ""2"""\n', "semicolons"),
        ("a.csv", 'q\ta\nx\t"1, ""2"""\n', "tabs"),
        ("a.csv", 'q|a\nx|"1, ""2"""\n', "vertical bars"),
        ("a.csv", 'sep=;\nq;a\nx;"1, ""2"""\n', "semicolons"),
        ("a.csv", 'q,a\nx,"1, \\"2\\""\n', "behind backslashes"),
        ("a.csv", "q,a\nx,'1, \"2\"'\n", "apostrophes"),
        ("a.csv", 'q, a\nx, "1, ""2"""\n', "after spaces"),
        ("a.tsv", 'q\ta\nx\t"1, ""2"""\n', None),
        ("a.tsv", 'q\ta\nx\t1, "2"\n', None),
        ("a.tsv", 'q\ta\nx\t1, "2"\ny\t"z" and\n', "never quoted"),
        ("a.tsv", 'q,a\nx,"1, ""2"""\n', "commas"),
    ],
)
def test_dialects(tmp_path: Path, name: str, text: str, said: str | None) -> None:
    found, notes = rows(tmp_path / name, text)
    assert found[0] == {"q": "x", "a": '1, "2"'}
    assert [code for code, _ in notes] == (["csv.dialect"] if said else [])
    assert said is None or said in notes[0][1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("text\nhello, world; yes\n", ["data.ragged_row"]),
        ("q,a\n'tis,x\nit's,y\n", [{"q": "'tis", "a": "x"}, {"q": "it's", "a": "y"}]),
        ('q,a\n1,2\n8,"u"v\n', [{"q": "1", "a": "2"}, "csv.syntax"]),
        ("q;a\n1;2,3\n4;5,6\n7\n", [{"q": "1", "a": "2,3"}, {"q": "4", "a": "5,6"}, "data.ragged_row"]),
        ("q,a\n1\n2\n", ["data.ragged_row"] * 2),
    ],
)
def test_a_bad_row_is_no_dialect(tmp_path: Path, text: str, expected: list[Any]) -> None:
    assert rows(tmp_path / "a.csv", text)[0] == expected


cell = st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters="\r\n\t"), max_size=12)


@given(
    st.lists(st.tuples(cell, cell, cell), min_size=1, max_size=6),
    st.sampled_from(",;\t|"),
    st.sampled_from(["\r\n", "\n"]),
)
@example([("'", "", "0'"), ("", "", "")], ",", "\n")
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_what_a_writer_writes_is_read(tmp_path: Path, table: list[tuple[str, ...]], separator: str, end: str) -> None:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=separator, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([("first", "second", "third"), *table])
    found, _ = rows(tmp_path / "a.csv", stream.getvalue())
    assert [tuple(row.values()) for row in found] == table


@pytest.mark.parametrize("name", ["a.csv", "a.txt"])
def test_an_endless_line_is_one_reject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(values, "LINE", 20)
    found, _ = rows(tmp_path / name, "text\n" + "x" * 200 + "\nshort\n" + "a,b" * 30 + "\n\nlast\n")
    assert found[-4:] == ["data.too_big", {"text": "short"}, "data.too_big", {"text": "last"}]


def test_a_quote_that_takes_in_the_rest_breaks_the_file(tmp_path: Path) -> None:
    assert rows(tmp_path / "a.csv", 'q,a\n1,2\n3,"4\n5,6\n')[0] == [{"q": "1", "a": "2"}, "data.broken_file"]


@pytest.mark.parametrize("header", ["a,a", "a, a", "a,b\0", b"a,b\xff"])
def test_headers_that_are_refused(tmp_path: Path, header: str | bytes) -> None:
    raw = header.encode() if isinstance(header, str) else header
    with pytest.raises(InputError) as caught:
        rows(tmp_path / "a.csv", raw + b"\n1,2\n")
    assert caught.value.finding.code == "data.header" and caught.value.finding.where.endswith("a.csv:1")


TEXTS = ["Der Käse schmeckt süß – „sehr“ gut.", "Où est le château près du cœur ?", "El niño comió piñas; ¿por qué?"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl", "a.json"])
def test_western_texts_are_read_and_said(tmp_path: Path, name: str, text: str) -> None:
    wrapped = {"a.txt": text, "a.csv": f'text\n"{text}"\n'}.get(name, f'{{"text": "{text}"}}\n')
    found, notes = rows(tmp_path / name, wrapped.encode("windows-1252"))
    assert found == [{"text": text}]
    assert [code for code, _ in notes] == ["data.recoded"] and "Windows-1252" in notes[0][1]


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Привет, мир", "cp1251"),
        ("Привет, мир", "koi8-r"),
        ("こんにちは世界", "shift-jis"),
        ("你好世界", "gb18030"),
        ("안녕하세요", "euc-kr"),
        ("Καλημέρα κόσμε", "cp1253"),
        ("zażółć gęślą jaźń", "cp1250"),
    ],
)
def test_other_alphabets_are_refused_not_mangled(tmp_path: Path, text: str, encoding: str) -> None:
    assert rows(tmp_path / "a.txt", f"{text}\n".encode(encoding))[0] == ["data.encoding"]


def test_one_bad_byte_in_utf_8_is_one_bad_row(tmp_path: Path) -> None:
    found, notes = rows(tmp_path / "a.txt", "süß\n".encode() + b"K\xe4se\nB\xe4r\n" + "Öl\n".encode())
    assert (found, notes) == ([{"text": "süß"}, "data.encoding", "data.encoding", {"text": "Öl"}], [])


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_marks_are_said(tmp_path: Path, encoding: str) -> None:
    found, notes = rows(tmp_path / "a.jsonl", '{"text": "süß 🙂"}\n'.encode(encoding))
    assert found == [{"text": "süß 🙂"}] and encoding.upper() in notes[0][1]


@given(st.text(st.characters(codec="utf-8"), max_size=50), st.integers(1, 9))
@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_recoding_does_not_depend_on_blocks(tmp_path: Path, text: str, block: int) -> None:
    (tmp_path / "a").write_bytes(text.encode("utf-16"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "BLOCK", block)
        with files.File(tmp_path / "a").utf8() as stream:
            assert stream.read().decode() == text


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"PK\x03\x04" + bytes(range(200)), "data.binary"),
        (b"%PDF-1.7\n", "data.binary"),
        (bytes(range(32)) * 20, "data.binary"),
        (bytes(500), "data.binary"),
        ('{"a": "no mark at the start of this one, but UTF-16"}'.encode("utf-16-le"), "data.encoding"),
        ('{"a": "no mark at the start of this one, but UTF-16"}'.encode("utf-16-be"), "data.encoding"),
    ],
)
@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv", "a.txt"])
def test_what_is_no_text(tmp_path: Path, name: str, content: bytes, code: str) -> None:
    with pytest.raises(InputError) as caught:
        rows(tmp_path / name, content)
    assert caught.value.finding.code == code and caught.value.finding.hint


EMPTY = "question,answer,,\nq,a,,\nq,a\nq,a,,x\nq\n"


def test_columns_without_a_name_at_the_end_are_left_out(tmp_path: Path) -> None:
    found, _ = rows(tmp_path / "a.csv", EMPTY)
    pair = {"question": "q", "answer": "a"}
    assert found == [pair, pair, "data.ragged_row", "data.ragged_row"]
    refused = [value.reason for _, value, _ in readers.read(tmp_path / "a.csv") if isinstance(value, RowError)]
    assert refused == ["cell 4 of the row stands in a column without a name", "the row has 1 cell, the header has 2"]


@pytest.mark.parametrize(
    "text",
    [
        "My export;;\n;;\nquestion;answer\nq;a\nq;a\n",
        "My export,,\nquestion,answer,\nq,a,\n",
        "My export\nquestion,answer\nq,a\n",
    ],
)
def test_a_title_above_the_header_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match="is it a title") as caught:
        rows(tmp_path / "a.csv", text)
    assert caught.value.finding.code == "data.header" and caught.value.finding.where.endswith("a.csv:1")


@pytest.mark.parametrize("text", ["text\nHello\nWell, I\n", "text,,\none,,\ntwo,,\n", "text\none, two\n"])
def test_a_table_of_one_column_has_no_title(tmp_path: Path, text: str) -> None:
    assert rows(tmp_path / "a.csv", text)[0]


@pytest.mark.parametrize("times", [2, 3])
def test_marks_that_stand_twice_are_skipped(tmp_path: Path, times: int) -> None:
    assert rows(tmp_path / "a.csv", b"\xef\xbb\xbf" * times + b"q,a\nx,y\n") == ([{"q": "x", "a": "y"}], [])
    assert rows(tmp_path / "a.jsonl", b"\xef\xbb\xbf" * times + b'{"q": "x"}\n')[0] == [{"q": "x"}]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt"])
def test_the_first_rows_of_a_long_table_tell_its_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(readers, "MANY", 10)
    (tmp_path / name).write_text("q" + f"\n\0{'bad' * 20}" * 15 + "".join(f"\n{number}" for number in range(20)))
    found, every = (
        [line for line, value, _ in items if isinstance(value, dict)]
        for items in (readers.sample(tmp_path / name), readers.read(tmp_path / name))
    )
    assert found == every[:10] and len(every) >= 20
