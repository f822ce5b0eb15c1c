"""`ft dataset prepare` through the real command line: what is written is what was counted."""

from __future__ import annotations

import csv
import errno
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

import truetune
from truetune.api.dataset.kept import aside
from truetune.cli import run
from truetune.errors import ResourceError, UsageError

GOOD = [{"prompt": f"What is {n} and {n}?", "completion": f"It is {n + n}, as everybody knows."} for n in range(40)]
LONG = {"messages": [{"role": role, "content": role} for role in ["user", "assistant"] * 2]}


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
    assert found["error"]["code"] == "data.notation" and "CSV can't hold" in found["error"]["message"]
    assert "out.jsonl" in found["error"]["hint"] and not (folder / "out.csv").exists()


def trains(command: str) -> int:
    """Whether the command that is named next can be run."""
    return run([*shlex.split(command)[1:], "--dry-run", "--json"])


def test_the_rows_of_a_train_yml_are_written_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines(folder / "a.jsonl", GOOD[:20])
    lines(folder / "b.jsonl", GOOD[20:])
    (folder / "train.yml").write_text("version: 1\nmodel: starter\ndata: {path: [a.jsonl, b.jsonl], weights: [2, 0.5]}")
    found = prepare(capsys, "train.yml", "--out", "out.jsonl")
    assert found["rows"]["used"] == len(rows(folder / "out.jsonl")) == 40 and not found["rows"]["sampled_out"]
    assert "weights" in found["next"] and trains(found["next"]) == 0


def test_rows_of_the_validation_file_are_left_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines(folder / "rows.jsonl", GOOD)
    lines(folder / "held.jsonl", GOOD[3:6])
    (folder / "train.yml").write_text("version: 1\nmodel: starter\ndata: {path: rows.jsonl, validation: held.jsonl}")
    found = prepare(capsys, "train.yml", "--out", "out.jsonl")
    assert found["rows"]["contaminated"] == 3 and len(rows(folder / "out.jsonl")) == 37
    assert {row["code"] for row in rows(folder / "out.rejects.jsonl")} == {"data.contaminated"}
    assert "data.validation=held.jsonl" in found["next"] and trains(found["next"]) == 0
    capsys.readouterr()
    assert prepare(capsys, "train.yml", "--out", "b.jsonl", "--split", "5", code=2)["error"]["code"] == "data.split"


def test_the_next_command_runs_as_it_stands(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines(
        folder / "my rows.jsonl",
        [*GOOD, {"prompt": "?", "completion": "Long. " * 80}, {"prompt": "", "completion": ""}],
    )
    template, name = ["--template", "chatml", "--max-length", "300"], "out (1).jsonl"
    assert run(["dataset", "prepare", "my rows.jsonl", "--out", name, *template, "--split", "5"]) == 0
    shown = capsys.readouterr().out
    assert "`ft dataset check 'my rows.jsonl'` tells" in shown
    command = shown.partition("next    ")[2].strip()
    assert "data.template=chatml" in command and "data.max_length=300" in command and "'out (1).jsonl'" in command
    assert trains(command) == 0
    plan = orjson.loads(capsys.readouterr().out)
    assert plan["config"]["data"]["template"] == "chatml" and plan["data"]["rows"]["validation"] == 5


@pytest.mark.parametrize("kind", ["pairs", "labels"])
def test_rows_of_other_objectives_are_prepared_too(folder: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    made = {
        "pairs": [{"prompt": row["prompt"], "chosen": row["completion"], "rejected": "No."} for row in GOOD],
        "labels": [{"text": row["prompt"], "label": "ab"[at % 2]} for at, row in enumerate(GOOD)],
    }
    lines(folder / "rows.jsonl", made[kind])
    found = prepare(capsys, "rows.jsonl", "--out", "out.jsonl")
    assert found["next"].startswith("ft train") and len(rows(folder / "out.jsonl")) == 40


def test_a_folder_that_is_not_there_is_said_before_the_work(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines(folder / "rows.jsonl", GOOD)
    assert run(["dataset", "check", "rows.jsonl", "--report", "no/page.html", "--no-estimate"]) == 3
    shown = capsys.readouterr()
    assert "no/page.html: there is no folder 'no'" in shown.err and not shown.out
    assert prepare(capsys, "rows.jsonl", "--out", "no/a.jsonl", code=3)["error"]["code"] == "data.no_folder"


def test_a_page_that_fails_takes_nothing_else_with_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines(folder / "rows.jsonl", GOOD)
    (folder / "page.md").mkdir()
    assert run(["dataset", "check", "rows.jsonl", "--report", "page.html", "--no-estimate"]) == 4
    shown = capsys.readouterr()
    assert "40 used" in shown.out and "the page can't be written" in shown.err


def test_files_may_be_paths(folder: Path) -> None:
    lines(folder / "rows.jsonl", GOOD)
    lines(folder / "test.jsonl", GOOD[:2])
    for data in (folder / "rows.jsonl", [folder / "rows.jsonl"], ["rows.jsonl"]):
        found = truetune.dataset_check(data, against=folder / "test.jsonl", estimate=False)
        assert found["rows"]["contaminated"] == 2
    assert truetune.dataset_show(folder / "rows.jsonl")["rows"]


@pytest.mark.parametrize("data", [None, 5, [{"prompt": "a"}], [], {}])
@pytest.mark.parametrize("verb", ["check", "show", "prepare", "convert"])
def test_anything_else_is_refused_in_a_sentence(folder: Path, verb: str, data: Any) -> None:
    more = {"prepare": ["out.jsonl"], "convert": ["openai"]}.get(verb, [])
    with pytest.raises(UsageError, match="file") as refused:
        getattr(truetune, f"dataset_{verb}")(data, *more)
    assert refused.value.code == "usage.bad_value"


def test_rows_keep_what_they_say_about_themselves(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = {"origin": "first.csv:7", "generated": {"method": "synthetic", "from": ["0a"]}}
    lines(folder / "rows.jsonl", [*GOOD, {"prompt": "Who wrote it?", "completion": "A model wrote it.", **made}])
    prepare(capsys, "rows.jsonl", "--out", "out.jsonl")
    first, *_, last = rows(folder / "out.jsonl")
    assert first["origin"] == "rows.jsonl:1" and "generated" not in first
    assert {name: last[name] for name in made} == made
    assert run(["dataset", "convert", "out.jsonl", "--to", "alpaca", "--out", "other.json"]) == 0
    first, *_, last = orjson.loads((folder / "other.json").read_bytes())
    assert first["origin"] == "rows.jsonl:1" and {name: last[name] for name in made} == made
    assert run(["dataset", "prepare", "out.jsonl", "--out", "again.parquet"]) == 0
    assert run(["dataset", "convert", "out.jsonl", "--to", "csv"]) == 0


def test_a_disk_without_room_is_one_sentence(folder: Path) -> None:
    lines(folder / "rows.jsonl", [{**row, "completion": row["completion"] * 200} for row in GOOD])
    command = [sys.executable, "-m", "truetune", "dataset", "prepare", "rows.jsonl", "--out", "out.jsonl"]
    limit = ["sh", "-c", 'trap "" XFSZ; ulimit -f 100; exec "$@"', "sh"]
    done = subprocess.run([*limit, *command, "--max-length", "4096"], capture_output=True, text=True)
    assert done.returncode == 4 and len(done.stderr.splitlines()) == 2 and "bug" not in done.stderr
    assert not (folder / "out.jsonl").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_notes_without_room_are_one_sentence(number: int) -> None:
    with pytest.raises(ResourceError, match="no room for notes") as full, aside():
        raise OSError(number, "No space left on device")
    assert full.value.code == "disk.full" and full.value.exit_code == 4


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("flags", [["--json"], []])
def test_a_full_stdout_is_one_sentence(folder: Path, flags: list[str]) -> None:
    lines(folder / "rows.jsonl", GOOD)
    command = [sys.executable, "-m", "truetune", "dataset", "show", "rows.jsonl", *flags]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 4 and done.stderr.startswith("error: no space left on device\nhint: ")
    assert len(done.stderr.splitlines()) == 2


def test_rows_that_no_table_holds_are_compared_with_all_the_same(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "The library opens at nine, except on Sundays, and the reading room closes an hour before the house does."
    talk = [{"role": "user", "content": "When does it open?", "name": "Ann"}, {"role": "assistant", "content": said}]
    lines(folder / "rows.jsonl", [*GOOD, {"prompt": "When does it open?", "completion": said}])
    lines(folder / "test.jsonl", [{"messages": talk}])
    found = prepare(capsys, "rows.jsonl", "--out", "out.csv", "--against", "test.jsonl")
    assert found["rows"]["contaminated"] == 1 and found["rows"]["used"] == 40


def test_a_file_is_a_path(folder: Path) -> None:
    lines(folder / "rows.jsonl", GOOD)
    for verb, given in (("check", {"report": 5}), ("prepare", {"out": 5}), ("convert", {"to": "csv", "out": 5})):
        with pytest.raises(UsageError, match="5 is no file"):
            getattr(truetune, f"dataset_{verb}")("rows.jsonl", **given)
