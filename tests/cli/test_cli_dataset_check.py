"""`ft dataset check`, `prepare` and `convert` through the real command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from truetune.cli import run
from truetune.cli.dataset.check import places

GOOD = [{"prompt": f"What is {n} and {n}?", "completion": f"It is {n + n}, as everybody knows."} for n in range(40)]
BROKEN = {"prompt": "Where is the cafÃ©?", "completion": "Opposite the station, beside the bakery."}
EMPTY = {"prompt": "Why?", "completion": ""}


def lines(path: Path, rows: list[Any]) -> str:
    path.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    return str(path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_bad_row_is_named_and_the_exit_code_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines(folder / "rows.jsonl", [*GOOD, EMPTY, GOOD[0]])
    assert run(["dataset", "check", "rows.jsonl", "--no-estimate"]) == 1
    shown = capsys.readouterr()
    assert "rows.jsonl:41" in shown.out and "data.empty" in shown.out and "rows.jsonl:42" in shown.out
    assert "1 bad" in shown.out and "1 twice" in shown.out
    assert "rows.jsonl:41" in shown.err


def test_good_rows_pass_and_the_account_adds_up(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines(folder / "rows.jsonl", GOOD)
    assert run(["dataset", "check", "rows.jsonl", "--no-estimate", "--json"]) == 0
    found = orjson.loads(capsys.readouterr().out)
    rows = found["rows"]
    assert found["schema"] == 1 and found["verdict"] in ("ok", "warnings") and rows["used"] == rows["read"] == 40
    assert rows["train"] + rows["validation"] == 40
    assert found["examples"]["rows"][0]["examples"][0]["trained"] > 0


def test_a_check_reads_the_data_of_a_train_yml(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines(folder / "rows.jsonl", GOOD)
    (folder / "train.yml").write_text("version: 1\nmodel: starter\ndata: {path: rows.jsonl, max_length: 20}\n")
    assert run(["dataset", "check", "train.yml", "--no-estimate", "--json"]) == 1
    found = orjson.loads(capsys.readouterr().out)
    assert [each["code"] for each in found["findings"]] == ["data.no_rows", "data.too_long"]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["same"] * 12, "every row has the label 'same'"),
        ([[]] * 12, "no row has a label"),
    ],
)
def test_labels_that_no_training_takes_are_an_error(
    labels: list[Any], said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = "label" if isinstance(labels[0], str) else "labels"
    lines(folder / "rows.jsonl", [{"text": f"letter number {n}", key: label} for n, label in enumerate(labels)])
    assert run(["dataset", "check", "rows.jsonl"]) == 1
    checked = capsys.readouterr()
    assert said in checked.out and "data.one_class" in checked.out and "max_rejects" not in checked.err
    assert run(["train", "--model", "starter", "--data", "rows.jsonl"]) == 3
    assert said in capsys.readouterr().err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("rated", "asked", "codes"),
    [
        ([True] * 12, 12, {"data.one_sided"}),
        ([False] * 12, 12, {"data.one_sided"}),
        ([True, False] * 6, 1, {"data.one_prompt"}),
        ([True] * 11 + [False], 12, set()),
    ],
)
def test_ratings_without_a_contrast_are_a_warning(
    rated: list[bool], asked: int, codes: set[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"prompt": f"What of {n % asked}?", "completion": f"It is {n}.", "label": good} for n, good in enumerate(rated)
    ]
    lines(folder / "rows.jsonl", rows)
    assert run(["dataset", "check", "rows.jsonl", "--no-estimate", "--json"]) == 0
    findings = orjson.loads(capsys.readouterr().out)["findings"]
    told = {each["code"]: each for each in findings if each["code"] in ("data.one_sided", "data.one_prompt")}
    assert {code for code, each in told.items() if each["level"] == "warning"} == codes
    assert all(each["hint"] for each in told.values())


@pytest.mark.slow
def test_a_training_says_before_it_starts_that_ratings_are_of_one_side(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines(folder / "rows.jsonl", [{"prompt": f"What of {n}?", "completion": "Yes.", "label": True} for n in range(12)])
    quick = ["--set", "training.max_steps=1", "--device", "cpu"]
    assert run(["train", "--model", "starter", "--data", "rows.jsonl", *quick]) == 0
    said = capsys.readouterr().err
    assert "warning all answers are rated good" in said and "Add rows of the other side" in said


def test_the_time_is_measured_not_guessed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines(folder / "rows.jsonl", GOOD[:8])
    assert run(["dataset", "check", "rows.jsonl", "--json"]) == 0
    estimate = orjson.loads(capsys.readouterr().out)["estimate"]
    assert estimate["seconds"] > 0 and estimate["tokens_per_second"] > 0 and estimate["steps"] == 3


def test_rows_of_a_test_set_are_found(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines(folder / "rows.jsonl", GOOD)
    lines(folder / "test.jsonl", GOOD[3:5])
    run(["dataset", "check", "rows.jsonl", "--against", "test.jsonl", "--no-estimate", "--json"])
    found = orjson.loads(capsys.readouterr().out)
    (kind,) = (each for each in found["findings"] if each["code"] == "data.contaminated")
    assert found["rows"]["contaminated"] == 2 and kind["where"] == ["rows.jsonl:4", "rows.jsonl:5"]


def test_prepared_rows_say_where_they_came_from(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines(folder / "rows.jsonl", [*GOOD, EMPTY, BROKEN, GOOD[0]])
    command = ["dataset", "prepare", "rows.jsonl", "--out", "clean.jsonl", "--split", "10%", "--clean"]
    assert run([*command, "--json"]) == 0
    found = orjson.loads(capsys.readouterr().out)
    kept = [
        orjson.loads(line) for name in ("out", "validation") for line in Path(found[name]).read_bytes().splitlines()
    ]
    assert len(kept) == 41 and {row["origin"] for row in kept} == {f"rows.jsonl:{n}" for n in [*range(1, 41), 42]}
    assert any(row["messages"][0]["content"] == "Where is the café?" for row in kept)
    assert found["mended"] == {"mojibake": 1}
    refused = [orjson.loads(line) for line in (folder / "clean.rejects.jsonl").read_bytes().splitlines()]
    assert sorted(row["line"] for row in refused) == [41, 43]
    assert len(Path(found["validation"]).read_bytes().splitlines()) == found["rows"]["validation"] == 5
    assert run(["dataset", "check", "clean.jsonl", "--no-estimate"]) == 0


def test_what_is_there_is_not_overwritten(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = lines(folder / "rows.jsonl", GOOD)
    (folder / "out.jsonl").write_text("mine")
    assert run(["dataset", "prepare", rows, "--out", "out.jsonl"]) == 3
    assert (folder / "out.jsonl").read_text() == "mine" and "--yes" in capsys.readouterr().err
    assert run(["dataset", "prepare", rows, "--out", rows, "--yes"]) == 2
    assert run(["dataset", "prepare", rows, "--out", "out.jsonl", "--yes"]) == 0
    assert len((folder / "out.jsonl").read_bytes().splitlines()) == 40


def test_rows_behind_a_break_are_not_lost_in_silence(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "rows.json").write_bytes(orjson.dumps(GOOD)[:-200])
    assert run(["dataset", "prepare", "rows.json", "--out", "out.jsonl"]) == 3
    assert not (folder / "out.jsonl").exists() and "rows.json" in capsys.readouterr().err


def test_converted_rows_are_the_same_rows(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines(folder / "rows.jsonl", [*GOOD, EMPTY])
    assert run(["dataset", "convert", "rows.jsonl", "--to", "sharegpt"]) == 0
    assert "40 rows" in capsys.readouterr().out
    assert run(["dataset", "convert", "rows.sharegpt.jsonl", "--to", "prompt_completion", "--out", "back.jsonl"]) == 0
    assert [orjson.loads(line) for line in (folder / "back.jsonl").read_bytes().splitlines()] == GOOD


@pytest.mark.parametrize(("to", "code"), [("nonsense", 2), ("parquet", 0)])
def test_kinds_of_files(folder: Path, to: str, code: int) -> None:
    rows = lines(folder / "rows.jsonl", GOOD)
    assert run(["dataset", "convert", rows, "--to", to]) == code
    assert (folder / "rows.parquet").exists() == (code == 0)


def test_places_name_each_file_once() -> None:
    assert places(["a.csv:1", "a.csv:2", "b.csv:9", "c.csv"]) == "a.csv:1, 2; b.csv:9; c.csv"


def test_files_of_a_folder_may_have_shapes_of_their_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "raw").mkdir()
    lines(folder / "raw" / "a.jsonl", GOOD)
    extra = "".join(f"Who is {n}?,Number {n} here.\n" for n in "abc")
    (folder / "raw" / "b.csv").write_text("question,answer\n" + extra)
    assert run(["dataset", "check", "raw", "--no-estimate", "--json"]) == 0
    found = orjson.loads(capsys.readouterr().out)
    assert found["rows"]["used"] == 43 and found["format"]["files"] == {"raw/b.csv": "question_answer"}
    assert run(["dataset", "prepare", "raw", "--out", "all.jsonl"]) == 0
    assert len((folder / "all.jsonl").read_bytes().splitlines()) == 43


def test_columns_that_a_conversion_loses_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "more.jsonl").write_text('{"prompt": "a", "completion": "b", "mood\\u001b[2J": "good", "topic": "x"}\n')
    assert run(["dataset", "convert", "more.jsonl", "--to", "openai"]) == 0
    assert "columns that are not used: mood\\x1b[2J and topic" in capsys.readouterr().out
