"""Files that can't be read as a whole, and files that are read with a word about it: eight of each kind."""

from __future__ import annotations

import gzip
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import real_rows
from real_rows import GOOD, messages

from truetune.config.schema import Data
from truetune.data import readers, sources
from truetune.data.prepare import find_format, prepare
from truetune.data.reading import packed
from truetune.data.rows import RowError
from truetune.errors import InputError
from truetune.models.tokenizer import Tokenizer

File = tuple[str, bytes, int]
"""Name, content, and the line that the error names (0: none)."""

ROWS = [orjson.dumps(messages(place)) for place in range(GOOD)]
LINES = b"\n".join(ROWS)
NOISE = bytes(range(32)) * 20


def broken() -> Iterator[File]:
    """Arrays and tables that end where no row ends."""
    array = b"[\n" + b",\n".join(ROWS) + b"\n]"
    for place in range(1, GOOD):
        yield f"cut{place}.json", array[: array.index(ROWS[place]) + 9 * place], place + 2
    yield "open.json", array[:-1].rstrip(), GOOD + 1
    yield "after.json", array + b"\n\ntext", GOOD + 4
    yield "brace.json", array[:-1] + b"}", GOOD + 2
    yield "quote.csv", b'question,answer\nq,a\nq,"a\nq,a\n', 3
    yield "torn.jsonl", b'{\n"text": "one"\n}\n{\n"text": "two"\n', 4


def files() -> dict[str, list[File]]:
    pairs = [f"{question[:20]},a".encode().replace(b"\n", b" ") for question, _ in real_rows.pairs()[:3]]
    body = b"\n".join(pairs) + b"\n"
    gz = gzip.compress(LINES)
    return {
        "data.broken_file": list(broken()),
        "data.header": [
            *(
                ("a.csv", raw + body, 1)
                for raw in (b"a,a\n", b"a, a \n", b"\xef\xbb\xbfa,a\n", b"q,\0\n", b"q,\xff\n", b",\n")
            ),
            ("a.tsv", b"a\ta\tb\n1\t2\t3\n", 1),
            ("a.csv.gz", gzip.compress(b"q;a;q\n1;2;3\n"), 1),
        ],
        "data.binary": [
            *((f"a{kind}", b"PK\x03\x04" + LINES, 0) for kind in (".json", ".jsonl", ".csv")),
            *((f"b{kind}", NOISE + LINES[:100], 0) for kind in (".json", ".txt", ".md")),
            ("a.txt", b"%PDF-1.7 text", 0),
            ("b.jsonl", gz, 0),
        ],
        "data.encoding": [
            *(
                (f"{code}{kind}", (LINES.decode() + "\n").encode(code), 0)
                for code in ("utf-16-le", "utf-16-be")
                for kind in (".json", ".jsonl", ".csv")
            ),
            ("a.jsonl", LINES.decode().encode("utf-16") + b"\0", 0),
            ("a.txt", "text".encode("utf-16") + b"\x00\xd8\x00\x00", 0),
        ],
        "data.packing": [
            *((f"a{place}.jsonl.gz", gz[:place], 0) for place in (1, 20, len(gz) // 2, len(gz) - 1)),
            ("b.jsonl.gz", LINES, 0),
            ("b.csv.gz", gz[:-8] + b"\0" * 8, 0),
            ("b.json.gz", gz[:12] + b"\xff" * 9 + gz[21:], 0),
            ("b.txt.gz", gz + b"text", 0),
        ],
        "data.unpacks_too_far": [
            (f"a{size}{kind}.gz", gzip.compress(start + b"x" * 2**size), 0)
            for size in (21, 22)
            for kind, start in ((".jsonl", b""), (".json", b"["), (".csv", b"a,b\n"), (".txt", b""))
        ],
        "data.empty": [
            *(("a.jsonl", raw, 0) for raw in (b"", b"\n", b" \r\n\t", b"\xef\xbb\xbf", b"\xff\xfe\n\0")),
            ("a.csv", b"question,answer\n", 0),
            ("a.txt", b"\n \n", 0),
            ("a.md.gz", gzip.compress(b"\n"), 0),
        ],
        "data.no_rows": [
            *(("a.json", raw, 0) for raw in (b"[]", b"[\n]", b"{}"[:0] + b"[ ]\n")),
            *(("b.json", raw, 1) for raw in (b"[1]", b"[[]]", b'"text"')),
            ("a.jsonl", b"text\ntext", 1),
            ("a.csv", b"q,a\n1\n", 2),
        ],
        "json.syntax": [
            *(("a.json", raw, 1) for raw in (ROWS[0][:-9], b"{", b"[", b'["', b"text", b"[nul]", b"{'a': 1}")),
            ("b.json", b"[\n{]", 2),
            ("a.json.gz", gzip.compress(b"{]"), 1),
        ],
        "data.unknown_format": [
            (f"a{place}.jsonl", b'{"%s": "x", "b": 1}' % name, 0)
            for place, name in enumerate(
                (b"a", b"", b"Texts", b"message s", b"input", b"chosen", b"content", b"summary")
            )
        ],
    }


CASES = [
    pytest.param(code, *case, id=f"{code}-{place}")
    for code, found in files().items()
    for place, case in enumerate(found)
]


@pytest.mark.parametrize(("code", "name", "content", "line"), CASES)
def test_the_file_is_named(
    encode: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, name: str, content: bytes, line: int
) -> None:
    monkeypatch.setattr(packed, "FREE", 2**20)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        prepare(Data(path=name), objective="auto", seed=1, folder=tmp_path, tokenizer=encode)
    finding = caught.value.finding
    assert finding.code == code and finding.hint and finding.message
    if line:
        assert finding.where.endswith(f"{name}:{line}")
    else:
        assert finding.where.endswith(name)


def test_every_kind_has_its_eight() -> None:
    assert all(len(found) >= 8 for found in files().values())


@pytest.mark.parametrize("name", ["a.xlsx", "a", "a.gz", "a.json.bz2", "a.zip", "a.pdf", "a.docx", "a.py"])
def test_other_files_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(LINES)
    with pytest.raises(InputError) as caught:
        sources.find([name], tmp_path)
    assert caught.value.finding.code == "data.unsupported_format" and ".jsonl" in caught.value.finding.hint


@pytest.mark.parametrize(
    "name", ["x.jsonl", "x/", "*.jsonl", "a/b.csv", "[x].json", "~/none.txt", "x?.csv", "a.jsonl/b"]
)
def test_files_that_are_not_there(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        sources.find([name], tmp_path)
    assert caught.value.finding.code == "data.missing" and caught.value.finding.hint


@pytest.mark.parametrize("kind", [".json", ".jsonl", ".csv", ".tsv", ".txt", ".md", ".html", ".jsonl.gz"])
def test_addresses_that_are_not_fetched(tmp_path: Path, kind: str) -> None:
    for address in ("http://example.org/rows", "ftp://example.org/rows", "https://me:secret@example.org/rows"):
        with pytest.raises(InputError) as caught:
            sources.find([address + kind], tmp_path)
        finding = caught.value.finding
        assert finding.code == "data.address" and "download" in finding.hint and "secret" not in str(finding)


def test_files_in_other_encodings_are_said(encode: Tokenizer, tmp_path: Path) -> None:
    """Eight files, all rows used, a finding for each."""
    names = [f"{code}{kind}" for code in ("utf-16", "utf-32", "cp1252", "latin-1") for kind in (".jsonl", ".json")]
    for number, name in enumerate(names):
        rows: list[Any] = [messages(number * GOOD + place) for place in range(GOOD)]
        text = (
            orjson.dumps(rows).decode()
            if name.endswith("json")
            else "\n".join(orjson.dumps(row).decode() for row in rows)
        )
        text = text.replace(" – ✓", " süß").encode("latin-1", "replace").decode("latin-1")
        (tmp_path / name).write_bytes(text.encode(name.partition(".")[0]))
    found = prepare(Data(path=names), objective="auto", seed=1, folder=tmp_path, tokenizer=encode)
    said = [item["message"].split(":")[0] for item in found.report["findings"] if item["code"] == "data.recoded"]
    assert said == names and found.report["rows"]["used"] == len(names) * GOOD


@pytest.mark.parametrize("place", range(8))
def test_garbage_is_never_more_than_an_error(tmp_path: Path, place: int) -> None:
    """Bytes of real files, cut and mixed: every reader ends with rows, refusals or one error of ours."""
    raw = LINES[place * 7 :] + bytes((byte * (place + 3)) % 256 for byte in LINES[: 40 * place])
    for kind in readers.READERS:
        path = tmp_path / f"a{kind}"
        path.write_bytes(raw)
        try:
            found = [value for _, value, _ in readers.read(path)]
            assert all(isinstance(value, dict | RowError) for value in found)
        except InputError as error:
            assert error.finding.hint


def test_find_format_reads_all_files(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES)
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(b"[" + b",".join(ROWS) + b"]"))
    options = Data(path=[str(tmp_path)])
    assert find_format(options, sources.find(options.paths, tmp_path)).shape.name == "messages"


def test_each_file_has_its_own_shape(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES)
    (tmp_path / "b.csv").write_text("question,answer\nWhy?,Because.\n")
    form = find_format(Data(path=str(tmp_path)), files := sources.find([str(tmp_path)], tmp_path))
    assert form.shape.name == "messages" and form.report()["files"] == {files[1].name: "question_answer"}
    assert [form.of(file.name).shape.name for file in files] == ["messages", "question_answer"]
    assert 0 < form.share <= 1 and form.seen > 1


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.ndjson", "rows.jsonl.gz"])
@pytest.mark.parametrize("text", ['[{"a": 1}, {"a": 2}]\n', '[\n {\n  "a": 1\n }\n]', '[{"a": 1},\n{"a": 2}]'])
def test_an_array_is_no_file_of_lines(tmp_path: Path, name: str, text: str) -> None:
    raw = text.encode()
    (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    with pytest.raises(InputError, match="one JSON array") as caught:
        list(readers.read(tmp_path / name))
    finding = caught.value.finding
    assert finding.code == "data.array" and f"rows.json{'.gz' if name.endswith('.gz') else ''}." in finding.hint


def test_lists_on_lines_are_rows_that_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('[{"role": "user"}]\n[{"role": "user"}]\n')
    refused = [value for _, value, _ in readers.read(tmp_path / "a.jsonl")]
    assert [value.code for value in refused if isinstance(value, RowError)] == ["data.not_an_object"] * 2


@pytest.mark.parametrize(("name", "said"), [("a.jsonl.gz", "it is not gzip"), ("a.jsonl.zst", "it is not zstd")])
def test_a_file_that_is_not_packed(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / name).write_bytes(LINES)
    with pytest.raises(InputError, match=said) as caught:
        list(readers.read(tmp_path / name))
    assert (caught.value.finding.code, caught.value.finding.hint) == ("data.packing", "Name it a.jsonl.")


def test_random_bytes_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(random.Random(3).randbytes(5000))
    with pytest.raises(InputError, match="no text") as caught:
        list(readers.read(tmp_path / "a.jsonl"))
    assert caught.value.finding.code == "data.binary"


def test_a_bad_line_with_bad_bytes_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"a": "\xff\xfe"\n{"a": "1"}\n')
    reasons = [value.reason for _, value, _ in readers.read(tmp_path / "a.jsonl") if isinstance(value, RowError)]
    assert reasons and "surrogate" not in reasons[0] and "not valid JSON" in reasons[0]
