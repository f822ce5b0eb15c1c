"""Real rows, and files of them with one bad row among the good: for the tests of malformed data."""

from __future__ import annotations

import csv
import gzip
import io
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

ROOT = Path(__file__).parents[2]
ALPACA = ROOT.parent / "shared" / "data" / "alpaca_en_demo.json"
EXAMPLE = ROOT / "examples" / "support" / "support.jsonl"
GOOD = 5
"""Good rows of a file."""


@lru_cache
def pairs() -> list[tuple[str, str]]:
    """Questions and answers, each once, short enough for every limit in these tests. One is beyond ASCII per file."""
    if ALPACA.is_file():
        rows = orjson.loads(ALPACA.read_bytes())
        found = [(f"{row['instruction']}\n\n{row['input']}".strip(), row["output"]) for row in rows]
    else:
        rows = [orjson.loads(line)["messages"] for line in EXAMPLE.read_bytes().splitlines()]
        found = [(row[-2]["content"], row[-1]["content"]) for row in rows]
    short = {question: answer for question, answer in found if answer.strip() and len(question + answer) < 400}
    return [(question, f"{answer} – ✓ {place}") for place, (question, answer) in enumerate(short.items())]


def messages(place: int) -> dict[str, Any]:
    question, answer = pairs()[place]
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def json_files(bad: list[bytes]) -> list[tuple[str, bytes, int]]:
    """Eight files (name, content, line of the bad row), each with `GOOD` good rows and one of `bad` in turn."""
    hosts = [
        ("first.jsonl", 0, "{}\n", ""),
        ("middle.jsonl", 2, "{}\n", ""),
        ("last.jsonl", GOOD, "{}\n", ""),
        ("crlf.jsonl", 3, "{}\r\n", ""),
        ("mark.jsonl", 1, "{}\n\n", "\ufeff"),
        ("packed.jsonl.gz", 4, "{}\n", ""),
        ("array.json", 2, "{},\n", "[\n"),
        ("spread.json", 1, "{}\n\n,\n", "\ufeff \r\n["),
    ]
    files = []
    for number, (name, place, frame, start) in enumerate(hosts):
        rows = [orjson.dumps(messages(number * GOOD + row)) for row in range(GOOD)]
        rows.insert(place, bad[number % len(bad)])
        before, after = frame.encode().split(b"{}")
        parts = [before + row + after for row in rows]
        line = (start.encode() + b"".join(parts[:place])).count(b"\n") + 1
        raw = start.encode() + b"".join(parts)
        if name.endswith(".json"):
            raw = raw.rstrip().removesuffix(b",") + b"\n]"
        files.append((name, gzip.compress(raw) if name.endswith(".gz") else raw, line))
    return files


def csv_files(bad: list[bytes]) -> list[tuple[str, bytes, int]]:
    """Eight tables, each with `GOOD` good rows and one of `bad` in turn, whose separators are written as `;`."""
    hosts = [
        ("first.csv", 0, ",", "\n"),
        ("middle.csv", 2, ",", "\r\n"),
        ("last.csv", GOOD, ",", "\n"),
        ("semicolons.csv", 3, ";", "\n"),
        ("tabs.tsv", 1, "\t", "\n"),
        ("bars.csv", 4, "|", "\r\n"),
        ("mark.csv", 2, ",", "\n"),
        ("packed.csv.gz", 1, ",", "\n"),
    ]
    files = []
    for number, (name, place, separator, end) in enumerate(hosts):
        rows = [_record(list(pairs()[number * GOOD + row]), separator, end) for row in range(GOOD)]
        rows.insert(place, bad[number % len(bad)].replace(b";", separator.encode()) + end.encode())
        start = ("\ufeff" if name == "mark.csv" else "").encode() + _record(["question", "answer"], separator, end)
        line = (start + b"".join(rows[:place])).count(b"\n") + 1
        raw = start + b"".join(rows)
        files.append((name, gzip.compress(raw) if name.endswith(".gz") else raw, line))
    return files


def _record(cells: list[str], separator: str, end: str) -> bytes:
    stream = io.StringIO(newline="")
    csv.writer(stream, delimiter=separator, lineterminator=end, quoting=csv.QUOTE_ALL).writerow(cells)
    return stream.getvalue().encode()
