"""`ft dataset prepare` through the real command line: what is written is what was counted."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import orjson
import pytest

from truetune.cli import run

GOOD = [{"prompt": f"What is {n} and {n}?", "completion": f"It is {n + n}, as everybody knows."} for n in range(40)]
LONG = {"messages": [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 2, "abcd")]}


def lines(path: Path, rows: list[Any]) -> str:
    path.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    return str(path)


def rows(path: Path) -> list[Any]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def prepare(capsys: pytest.CaptureFixture[str], *args: str, code: int = 0) -> dict[str, Any]:
    assert run(["dataset", "prepare", *args, "--json"]) == code
    found = orjson.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def test_a_table_holds_what_it_can_and_the_rest_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    talks = [{"messages": [{"role": "user", "content": row["prompt"]},
                           {"role": "assistant", "content": row["completion"]}]} for row in GOOD]  # fmt: skip
    lines(folder / "rows.jsonl", [*talks, LONG])
    found = prepare(capsys, "rows.jsonl", "--out", "out.csv")
    with (folder / "out.csv").open(newline="") as stream:
        written = list(csv.DictReader(stream))
    assert [row["completion"] for row in written] == [row["completion"] for row in GOOD]
    assert found["rows"]["used"] == 40 and found["rows"]["rejected"] == 1
    (reject,) = rows(folder / "out.rejects.jsonl")
    assert reject["code"] == "data.notation" and "CSV" in reject["reason"]


def test_a_table_that_can_hold_no_row_is_one_sentence(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines(folder / "rows.jsonl", [LONG])
    found = prepare(capsys, "rows.jsonl", "--out", "out.csv", code=3)
    assert "CSV" in found["error"]["message"] and not (folder / "out.csv").exists()
