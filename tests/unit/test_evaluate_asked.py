"""What `evaluate` refuses before it imports anything large."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import truetune as ft
from truetune import cli
from truetune.cli.common import pairs
from truetune.errors import InputError, UsageError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUETUNE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("names", [("",), ("good.jsonl", ""), (" ",), ("a\nb.jsonl",)])
def test_a_file_without_a_name(names: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["evaluate", "starter", *(word for name in names for word in ("--data", name))]) == 2
    said = capsys.readouterr().err
    assert "is no name of a file" in said and "bug" not in said


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": -1}, "limit"),
        ({"limit": 2.5}, "limit"),
        ({"limit": True}, "limit"),
        ({"slots": 0}, "slots"),
        ({"device": "foo"}, "device"),
        ({"data": 3}, "data"),
        ({"data": ""}, "data"),
        ({"data": [None]}, "data"),
        ({"out": 5}, "out"),
        ({"columns": {"prompt": "frage"}}, "columns"),
        ({"columns": "prompt=frage", "data": "a.jsonl"}, "columns"),
    ],
)
def test_values_that_cannot_be_used(options: dict[str, Any], where: str) -> None:
    with pytest.raises(UsageError) as error:
        ft.evaluate("last", **options)
    assert (error.value.finding.code, error.value.finding.where) == ("usage.bad_value", where)
    assert error.value.finding.hint


@pytest.mark.parametrize("out", ["some/new/x.json", "."])
def test_a_file_that_cannot_be_written(out: str) -> None:
    with pytest.raises(InputError) as error:
        ft.evaluate("last", out=out)
    assert (error.value.code, error.value.exit_code) == ("data.no_folder", 3) and error.value.hint


def test_columns_are_pairs(capsys: pytest.CaptureFixture[str]) -> None:
    assert pairs(["prompt=frage, response=antwort", "system=rolle"]) == {
        "prompt": "frage",
        "response": "antwort",
        "system": "rolle",
    }
    assert cli.run(["evaluate", "starter", "--data", "a.jsonl", "--columns", "frage"]) == 2
    assert "which column is which" in capsys.readouterr().err


def test_what_is_no_address() -> None:
    with pytest.raises(UsageError) as error:
        ft.evaluate(3)  # type: ignore[arg-type]
    assert error.value.finding.code == "usage.bad_value"


def test_a_run_that_is_not_there_costs_no_import(tmp_path: Path) -> None:
    """torch and the libraries of the figures take seconds."""
    program = (
        "import sys\nfrom truetune import cli\n"
        "assert cli.run(['evaluate', 'nobody']) == 3\n"
        "assert cli.run(['evaluate']) == 3\n"
        "assert cli.run(['evaluate', '--device', 'foo']) == 2\n"
        "large = {'torch', 'transformers', 'rouge_score', 'sacrebleu'} & set(sys.modules)\n"
        "assert not large, large"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert said.returncode == 0, said.stderr
