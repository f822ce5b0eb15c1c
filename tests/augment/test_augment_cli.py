"""`ft dataset augment` through the real command line: an endpoint on this machine, the starter, and mistakes."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import orjson
import pytest

from truetune.augment.words import REASONS
from truetune.cli import run

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def line(rows: Path, tmp_path: Path) -> list[str]:
    words = ["dataset", "augment", str(rows), "--validation", "none"]
    return [*words, "--method", "paraphrase", "--out", str(tmp_path / "more.jsonl")]


def at(server: Any) -> list[str]:
    return ["--model", "large", "--endpoint", server.address]


def test_shows_what_came_of_it_and_some_of_the_rows(server: Any, line: list[str], capsys: Capture) -> None:
    server.say = lambda prompt: f"Please say: {prompt.partition(chr(10) * 2)[2]}"
    assert run([*line, *at(server), "--per-row", "1"]) == 0
    out, err = capsys.readouterr()
    assert "paraphrase: 4 of 4 answers used" in out and "more.jsonl: look at the rows" in out
    assert "Please say: How do I return a bike?" in out and "made from  How do I return a bike?" in out
    assert "paraphrase: answers 4/4" in err


def test_json_has_the_counts_and_the_file(server: Any, line: list[str], tmp_path: Path, capsys: Capture) -> None:
    server.say = lambda prompt: "Is it 1234?"
    assert run([*line, *at(server), "--json", "--slots", "1"]) == 0
    document = orjson.loads(capsys.readouterr().out)
    assert document["schema"] == 1 and document["out"] == str(tmp_path / "more.jsonl")
    assert (document["written"], document["asked"], document["rejected"]) == (1, 8, {"numbers": 6, "twice": 1})


def test_steering_text_of_a_model_is_shown_and_not_obeyed(server: Any, line: list[str], capsys: Capture) -> None:
    server.say = lambda prompt: f"[red]Why {prompt.partition(chr(10) * 2)[2]}"
    assert run([*line, *at(server), "--limit", "1"]) == 0
    assert "[red]Why" in capsys.readouterr().out


def test_nothing_usable_is_found_wrong(server: Any, line: list[str], tmp_path: Path, capsys: Capture) -> None:
    server.say = lambda prompt: "no"
    assert run([*line, *at(server)]) == 1
    out, err = capsys.readouterr()
    assert "error: large: none of 8 answers can be used" in err and "hint: Small models write poor rows" in err
    assert REASONS["no_question"] in out and not (tmp_path / "more.jsonl").exists()


def test_a_dry_run_says_who_would_be_asked_what(server: Any, line: list[str], capsys: Capture) -> None:
    assert run([*line, *at(server), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert f"large at {server.address} would be asked for 8 new rows from 4 rows" in out
    assert "How do I return a bike?" in out and not server.seen


def test_a_file_is_replaced_with_yes_alone(server: Any, line: list[str], tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "more.jsonl").write_text("old\n")
    assert run([*line, *at(server)]) == 2
    assert "the file is there already" in capsys.readouterr().err and not server.seen
    assert run([*line, *at(server), "--yes"]) == 0
    assert b"generated" in (tmp_path / "more.jsonl").read_bytes()


@pytest.mark.parametrize("left_out", ["--method", "--model", "--out"])
def test_method_model_and_file_must_be_named(server: Any, line: list[str], left_out: str, capsys: Capture) -> None:
    words = [*line, *at(server)]
    place = words.index(left_out)
    assert run(words[:place] + words[place + 2 :]) == 2
    assert left_out in capsys.readouterr().err and not server.seen


def test_offline_an_endpoint_elsewhere_is_refused(
    line: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert run([*line, "--model", "large", "--endpoint", "https://api.example.com/v1"]) == 3
    assert "HF_HUB_OFFLINE forbids the network" in capsys.readouterr().err


def test_an_unknown_model_is_one_sentence(line: list[str], capsys: Capture) -> None:
    assert run([*line, "--model", "./nowhere"]) == 3
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("method", ["paraphrase", "backtranslate", "synthetic"])
def test_a_model_of_this_machine(line: list[str], tmp_path: Path, method: str, capsys: Capture) -> None:
    """The starter writes poor rows: what it writes is checked, counted and written all the same, and equally twice."""
    line[line.index("paraphrase")] = method
    words = [*line, "--model", "starter", "--json", "--per-row", "1", "--max-new-tokens", "48", "--device", "cpu"]
    code = run(words)
    first = orjson.loads(capsys.readouterr().out)
    assert first["asked"] == 4 == first["written"] + sum(first["rejected"].values())
    assert code == (0 if first["written"] else 1) and set(first["rejected"]) <= set(REASONS)
    more = tmp_path / "more.jsonl"
    rows = more.read_bytes() if first["written"] else b""
    assert len(rows.splitlines()) == first["written"]
    assert run([*words, "--yes"]) == code
    assert orjson.loads(capsys.readouterr().out)["rejected"] == first["rejected"]
    assert rows == (more.read_bytes() if first["written"] else b"")


@pytest.mark.slow
def test_ctrl_c_ends_it_while_an_answer_is_waited_for_and_keeps_what_is_there(
    server: Any, rows: Path, line: list[str], tmp_path: Path
) -> None:
    questions = [{"prompt": f"Which {number}?", "completion": "This."} for number in range(40)]
    rows.write_bytes(b"\n".join(map(orjson.dumps, questions)))
    hangs, over = threading.Event(), threading.Event()

    def say(prompt: str) -> str:
        if len(server.seen) > 33:
            hangs.set()
            over.wait(600)
        return f"What about {prompt.partition('Which ')[2]}"

    server.say = say
    words = [sys.executable, "-m", "truetune", *line, *at(server), "--per-row", "1"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert hangs.wait(400)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
        over.set()
    assert process.returncode == 130 and "Traceback" not in err
    assert len((tmp_path / "more.jsonl").read_bytes().splitlines()) == 32
