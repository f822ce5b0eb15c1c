"""Bad rows among real ones: each gets its code, its file and its line, and every row is accounted for.

Every code is tried in eight files of several kinds (see `real_rows`), which one preparation takes in together.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
import real_rows
from real_rows import GOOD, messages

from truetune.config.schema import Data
from truetune.config.values import Amount
from truetune.data import readers
from truetune.data.prepare import Prepared, prepare
from truetune.data.reading import values
from truetune.models.tokenizer import Tokenizer

FATES = ("used", "rejected", "deduplicated", "contaminated", "too_long", "unsupervised")
ROW = messages(40)
TEXT = orjson.dumps(ROW)
USER, ANSWER = ROW["messages"]


def chat(*turns: Any) -> bytes:
    return orjson.dumps({"messages": list(turns)})


def said(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def extra(raw: str) -> bytes:
    """The row with one more column, written as JSON."""
    return TEXT[:-1] + f', "extra": {raw}}}'.encode()


def named(raw: str) -> bytes:
    """The row with raw text at the start of its answer."""
    return TEXT.replace(b'"assistant","content":"', b'"assistant","content":"' + raw.encode("utf-8", "surrogatepass"))


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


JSON: dict[str, list[bytes]] = {
    "json.syntax": [
        *map(extra, ("NaN", "-Infinity", "True", "+1", "01", "'x'", "1,")),
        TEXT.replace(b'"messages":', b'"messages"'),
    ],
    "json.surrogate": [
        *map(named, ("\\ud800", "\\udc00", "\\udc00\\ud800", "\\ud83d\\n", "\\uDBFF")),
        *map(extra, ('"\\ud83d"', '{"\\udfff": 1}', '["\\uD834"]')),
    ],
    "json.number": [extra(raw) for raw in ("1e999", "-1e999", "[1E+400]", '{"a": 9e99999}', "1" + "0" * 400 + ".5")],
    "data.not_an_object": [
        orjson.dumps(ROW["messages"]), b'"text"', b"42", b"null", b"true", b"[]", b"-0.5", b"[[{}]]"
    ],
    "data.too_deep": [
        *map(extra, (nested(64), nested(100), nested(900), nested(2000), '{"a":' * 70 + "1" + "}" * 70)),
    ],
    "data.nul": [named("\\u0000"), extra('"a\\u0000"'), extra('{"\\u0000": 1}'), extra('["x", "\\u0000"]')],
    "data.encoding": [
        *(TEXT.replace(b'"assistant","content":"', b'"assistant","content":"' + raw)
          for raw in (b"\xff", b"\xc3", b"\xe4 ", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\x80", b"\xc0\xaf"))
    ],
    "data.too_big": [named("x" * 9000), extra('"' + "y" * 9000 + '"'), extra("[" + "1," * 9000 + "1]")],
    "data.type": [
        orjson.dumps({"messages": "text"}), orjson.dumps({"messages": None}), orjson.dumps({"messages": {"a": 1}}),
        chat("text"), chat(USER, None), chat(USER, said(5)), chat(USER, said(None)), chat(USER, said({"text": "x"})),
    ],
    "data.empty": [chat(), chat(USER, said("")), chat(USER, said(" \n")), chat(said("", role="user"), ANSWER)],
    "data.role": [chat(USER, said("x", role=role)) for role in ("helper", "", None, 5, "Assistent", ["user"])],
    "data.role_order": [
        chat(ANSWER), chat(USER, ANSWER, ANSWER), chat(said("s", role="system"), ANSWER),
        chat(USER, said("s", role="system"), ANSWER), chat(USER, ANSWER, said("s", role="system"), USER, ANSWER),
    ],
    "data.no_answer": [
        chat(USER), chat(USER, USER), chat(said("s", role="system")), chat(said("s", role="system"), USER),
    ],
    "data.content_part": [
        chat(USER, said([{"type": "image_url"}])), chat(USER, said([{"type": "text"}])), chat(USER, said([5])),
        chat(said([{"type": "audio", "text": "x"}], role="user"), ANSWER), chat(USER, said(["x", None])),
    ],
    "data.tool_calls": [
        chat(USER, said("", tool_calls=[{"id": 1}])), chat(USER, said(None, function_call={"name": ""})),
        chat(USER, said(None, tool_calls="[{")), chat({**USER, "tool_calls": [{"name": "f"}]}, ANSWER),
        chat(USER, said("", tool_calls=[{"function": {"name": "f", "arguments": "{"}}])),
        chat(USER, said("[]", role="function_call", tool_calls=7)),
        chat(USER, said("", role="function_call")), chat(USER, said("", tool_calls=[{"name": "f", "arguments": [1]}])),
    ],
    "data.weight": [chat(USER, said("x", weight=weight)) for weight in (-1, "1", True, [1], -0.5)],
    "data.other_shape": [
        b"{}", b'{"message": []}', b'{"text": "plain"}', b'{"prompt": "q", "completion": "a"}', b'{"Message": []}',
        b'{"instruction": "i", "output": "o"}', b'{"conversations": []}', b'{"question": "q"}',
    ],
    "data.control_token": [*map(named, ("</s>", "a </s>", "\\n</s>")), chat(said("</s>", role="user"), ANSWER)],
    "data.unsupervised": [chat(USER, said("x", weight=weight)) for weight in (0, 0.0, -0.0)],
    "data.too_long": [named("xq9 " * 1900), chat(said("six " * 1500, role="user"), ANSWER)],
}  # fmt: skip
CSV: dict[str, list[bytes]] = {
    "data.ragged_row": [b'"q"', b'"q";"a";"b"', b"q;a;", b";;;", b'""', b'"a;b"', b"q;a;b;c;d", b'"q\nr"'],
    "csv.syntax": [b'"q"r;"a"', b'"q";"a"b', b'"q" ;"a"', b'"q";"a"b"', b'"";"a" "b"', b'"q\nr"s;"a"'],
    "data.nul": [b'"q\0";"a"', b'"q";"\0"', b'"q";"a\nb\0"', b'\0;"a"'],
    "data.encoding": [b'"q";"\xff"', b'"\xc3";"a"', b'"q";"K\xe4se"', b'"q";"\xed\xa0\x80"', b'"q\n\xfe";"a"'],
    "data.empty": [b'"q";""', b'"q";" "', b'"";"a"', b'"q";"\n"', b"q;", b";a"],
    "data.too_big": [b'"' + b"x" * 9000 + b'";"a"', b'"q";"' + b"y" * 9000 + b'"', b'"q";' + b"z" * 9000],
    "data.control_token": [b'"q";"</s>"', b'"</s>";"a"', b'"q";"a\n</s> b"'],
    "data.too_long": [b'"q";"' + b"xq9 " * 1900 + b'"', b'"' + b"six " * 1500 + b'";"a"'],
}


def run(encode: Tokenizer, folder: Path, files: list[tuple[str, bytes, int]], **options: Any) -> Prepared:
    for name, content, _ in files:
        (folder / name).write_bytes(content)
    options = {"max_rejects": Amount(100, percent=True), "max_length": 2048, **options}
    data = Data(path=[name for name, _, _ in files], **options)
    return prepare(data, objective="auto", seed=1, folder=folder, tokenizer=encode)


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row may be 9000 bytes."""
    monkeypatch.setattr(values, "LINE", 9000)
    monkeypatch.setattr(readers, "LINE", 9000)


def check(found: Prepared, files: list[tuple[str, bytes, int]], code: str) -> None:
    """The bad row of each file has its code and place; all others are used."""
    assert [(item["file"], item["line"], item["code"]) for item in found.rejects] == [
        (name, line, code) for name, _, line in files
    ]
    rows = found.report["rows"]
    assert rows["read"] == sum(rows[fate] for fate in FATES) == len(files) * (GOOD + 1)
    assert rows["used"] == len(files) * GOOD
    assert [item["rows"] for item in found.report["inputs"]] == [GOOD + 1] * len(files)


@pytest.mark.parametrize("code", JSON)
@pytest.mark.usefixtures("limit")
def test_bad_rows_of_json(encode: Tokenizer, tmp_path: Path, code: str) -> None:
    files = real_rows.json_files(JSON[code])
    check(run(encode, tmp_path, files, dedupe="none"), files, code)


@pytest.mark.parametrize("code", CSV)
@pytest.mark.usefixtures("limit")
def test_bad_rows_of_csv(encode: Tokenizer, tmp_path: Path, code: str) -> None:
    files = real_rows.csv_files(CSV[code])
    columns = {"prompt": "question", "completion": "answer"}
    check(run(encode, tmp_path, files, columns=columns, dedupe="none"), files, code)


def test_rows_that_stand_twice(encode: Tokenizer, tmp_path: Path) -> None:
    """The bad row of each file equals one that came before it: its code is another in every file but the first."""
    files = real_rows.json_files([TEXT, extra("1"), b" " + TEXT])
    found = run(encode, tmp_path, files)
    assert [(item["file"], item["line"], item["code"]) for item in found.rejects] == [
        (name, line, "data.duplicate") for name, _, line in files[1:]
    ]


def test_rows_of_the_validation_file(encode: Tokenizer, tmp_path: Path) -> None:
    files = real_rows.json_files([orjson.dumps(messages(place)) for place in range(40, 48)])
    (tmp_path / "held.jsonl").write_bytes(b"\n".join(orjson.dumps(messages(place)) for place in range(40, 48)))
    found = run(encode, tmp_path, files, validation="held.jsonl")
    assert [(item["file"], item["line"], item["code"]) for item in found.rejects] == [
        (name, line, "data.contaminated") for name, _, line in files
    ]


def test_keys_that_stand_twice(encode: Tokenizer, tmp_path: Path) -> None:
    bad = [extra(f'1, "extra": {place}') for place in range(4)] + [
        extra(f'{{"a": {{"b": {place}, "b": 1}}}}') for place in range(4)
    ]
    files = real_rows.json_files([raw.replace(b"\xe2\x9c\x93", str(place).encode()) for place, raw in enumerate(bad)])
    found = run(encode, tmp_path, files)
    told = [item["message"] for item in found.report["findings"] if item["code"] == "json.duplicate_key"]
    assert {each["level"] for each in found.report["findings"] if each["code"] == "json.duplicate_key"} == {"warning"}
    assert [text.split(": ")[0] for text in told] == [f"{name}:{line}" for name, _, line in files]
    assert found.report["rows"]["used"] == len(files) * (GOOD + 1)
