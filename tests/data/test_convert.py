"""Files from one notation to another: every row is written or named, and nothing of the text changes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from truetune.data import formats, readers
from truetune.data.convert import convert
from truetune.data.rows import Document
from truetune.errors import TrueTuneError

SHARED = Path(__file__).parents[3] / "shared" / "data"
Q, A = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


def saved(path: Path, rows: list[Any]) -> str:
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return path.name


def contents(path: Path) -> list[Any]:
    values = [value for _, value, _ in readers.read(path)]
    form = formats.detect(values)  # type: ignore[arg-type]
    return [form.read(value) for value in values]  # type: ignore[arg-type]


def test_bad_rows_are_named_and_counted(tmp_path: Path) -> None:
    rows = [{"messages": [Q, A]}, {"messages": [Q]}, 7, {"messages": [{"role": "system", "content": "s"}, Q, A]}]
    rows += [{"messages": [Q, {**A, "tool_calls": [{"name": "f"}]}]}]
    found = convert([saved(tmp_path / "a.jsonl", rows)], "alpaca", tmp_path / "b.json", tmp_path)
    assert found["rows"] == {"read": 5, "written": 2, "rejected": 3}
    assert [(reject["where"], reject["code"]) for reject in found["rejects"]] == [
        ("a.jsonl:2", "data.no_answer"),
        ("a.jsonl:3", "data.not_an_object"),
        ("a.jsonl:5", "data.notation"),
    ]
    assert found["codes"] == {"data.no_answer": 1, "data.not_an_object": 1, "data.notation": 1}
    assert json.loads((tmp_path / "b.json").read_bytes())[1] == {
        "instruction": "q",
        "input": "",
        "output": "a",
        "system": "s",
    }
    assert found["format"]["name"] == "messages" and found["notation"] == "alpaca"


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet"])
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not there")
def test_real_rows_there_and_back(tmp_path: Path, name: str) -> None:
    for source, to in (("alpaca_en_demo.json", "sharegpt"), ("dpo_en_demo.json", "preference")):
        found = convert([str(SHARED / source)], to, tmp_path / name, tmp_path, replace=True)
        assert found["rows"]["rejected"] == 0 and found["rows"]["written"] > 299
        assert [one.digest for one in contents(tmp_path / name)] == [one.digest for one in contents(SHARED / source)]


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not there")
def test_naughty_strings_through_every_kind_of_file(tmp_path: Path) -> None:
    texts = [f"<{number}>{text}<>" for number, text in enumerate(orjson.loads((SHARED / "blns.json").read_bytes()))]
    name = saved(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    for to in ("csv", "json", "parquet", "jsonl"):
        out = f"out.{to}"
        assert convert([name], to, tmp_path / out, tmp_path)["rows"]["written"] == len(texts)
        assert contents(tmp_path / out) == [Document(text) for text in texts]
        name = out


@pytest.mark.parametrize(
    ("row", "notation"),
    [
        ({"prompt": "q", "completion": "a"}, "openai"),
        ({"text": "t"}, "text"),
        ({"text": "t", "label": "a"}, "classification"),
        ({"text": "t", "labels": ["a"]}, "multilabel"),
        ({"premise": "t", "hypothesis": "u", "label": 1}, "pairs"),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "preference"),
        ({"prompt": "q", "completion": "a", "label": False}, "kto"),
    ],
)
def test_a_kind_of_file_keeps_what_the_rows_hold(tmp_path: Path, row: dict[str, Any], notation: str) -> None:
    name = saved(tmp_path / "a.jsonl", [row])
    found = convert([name], "parquet", tmp_path / "b.parquet", tmp_path)
    assert found["notation"] == notation
    assert contents(tmp_path / "b.parquet") == contents(tmp_path / "a.jsonl")


def test_csv_keeps_single_questions_and_names_the_others(tmp_path: Path) -> None:
    rows = [{"messages": [Q, A]}, {"messages": [Q, A, Q, A]}]
    found = convert([saved(tmp_path / "a.jsonl", rows)], "csv", tmp_path / "b.csv", tmp_path)
    assert found["notation"] == "prompt_completion"
    assert found["codes"] == {"data.notation": 1} and len(contents(tmp_path / "b.csv")) == 1


def test_csv_reads_in_other_programs(tmp_path: Path) -> None:
    rows = [{"question": 'Say "hi",\nplease', "answer": "hi"}]
    convert([saved(tmp_path / "a.jsonl", rows)], "prompt_completion", tmp_path / "b.csv", tmp_path)
    with (tmp_path / "b.csv").open(newline="", encoding="utf-8") as stream:
        assert list(csv.reader(stream)) == [["prompt", "completion", "system"], ['Say "hi",\nplease', "hi", ""]]


@pytest.mark.parametrize(
    ("to", "out", "code", "exit_code"),
    [
        ("poem", "b.json", "data.notation", 2),
        ("openai", "b.xlsx", "data.out", 2),
        ("parquet", "b.json", "data.out", 2),
        ("openai", "a.jsonl", "data.out", 2),
        ("openai", "old.json", "data.out_exists", 3),
        ("text", "b.json", "data.no_rows", 3),
        ("openai", "gone/b.json", "data.write", 4),
    ],
)
def test_what_cannot_be_done(tmp_path: Path, to: str, out: str, code: str, exit_code: int) -> None:
    name = saved(tmp_path / "a.jsonl", [{"messages": [Q, A]}])
    (tmp_path / "old.json").write_text("mine")
    with pytest.raises(TrueTuneError) as caught:
        convert([name], to, tmp_path / out, tmp_path)
    assert (caught.value.code, caught.value.exit_code) == (code, exit_code) and caught.value.hint
    assert (tmp_path / "old.json").read_text() == "mine" and not (tmp_path / "b.json").exists()


def test_columns_and_formats_can_be_named(tmp_path: Path) -> None:
    name = saved(tmp_path / "a.jsonl", [{"Frage": "q", "Antwort": "a"}])
    columns = {"prompt": "Frage", "completion": "Antwort"}
    convert([name], "openai", tmp_path / "b.jsonl", tmp_path, columns=columns, format="prompt_completion")
    assert json.loads((tmp_path / "b.jsonl").read_bytes()) == {"messages": [Q, A]}
