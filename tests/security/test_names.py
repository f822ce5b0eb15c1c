"""Names are words, not paths: where a name becomes a file, nothing leads out of its folder."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from truetune.config import load
from truetune.errors import TrueTuneError
from truetune.models import hub
from truetune.runs import find
from truetune.runs.checkpoints import Checkpoints
from truetune.runs.run import Run, new_id

EVIL = [
    "../up",
    "..",
    ".",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "..\\up",
    "\\\\host\\share",
    "C:up",
    "a\0b",
    "a\nb",
    "name\n",
    "-rf",
    "~root",
    "$HOME",
    "${HOME}",
    "$(touch canary)",
    "`touch canary`",
    "a;touch canary",
    "%2e%2e%2fup",
    "\u2024\u2024/up",
    "\uff0e\uff0e\uff0fup",
    "a\u202eb",
    "\x1b[2J",
    "a" * 300,
    "",
    " ",
]


@pytest.mark.parametrize("name", EVIL)
def test_the_name_of_a_run(name: str) -> None:
    with pytest.raises(TrueTuneError):
        load(None, (), {"model": "starter", "data": "rows.jsonl", "output": {"name": name}})


@pytest.mark.parametrize("name", EVIL)
def test_a_run_made_from_the_names_of_its_model_and_data(name: str) -> None:
    made = new_id(name, name, now=datetime(2026, 1, 1, tzinfo=UTC))
    assert Path(made).name == made and made.isascii() and made.isprintable() and not made.startswith((".", "-"))


@pytest.mark.parametrize("name", [name for name in EVIL if name])
def test_the_name_of_a_checkpoint(name: str, tmp_path: Path) -> None:
    """Also one that is there."""
    run = Run(tmp_path / "run")
    (run.folder / "checkpoints").mkdir(parents=True)
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / "manifest.json").write_text(json.dumps({"schema": 1, "files": {}}))
    with pytest.raises(TrueTuneError):
        Checkpoints(run).find(name)
    with pytest.raises(TrueTuneError):
        Checkpoints(run).find(f"step-1/{name}")


@pytest.mark.parametrize("name", [name for name in EVIL if name not in ("", " ", ".", "..", "../up", "name\n")])
def test_a_run_is_not_looked_for_elsewhere(name: str, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with pytest.raises((TrueTuneError, ValueError)):  # a name with a NUL is none of the system's
        find.parse(name, tmp_path / "runs")


@pytest.mark.parametrize("name", [*EVIL, "a/b/c", "a/..", "../b", "a--b", "models--a", "a/b:x", "https://host/a"])
def test_the_name_of_a_hub_model(name: str) -> None:
    fine = {"a/b", "C:up"} & {name}
    assert bool(fine - {"C:up"}) == hub.is_name(name)


def test_settings_are_not_expanded() -> None:
    """`$HOME` in train.yml is a text of five letters."""
    given = {"model": "starter", "data": "$HOME/rows.jsonl", "output": {"dir": "${HOME}/x"}}
    config = load(None, (), given).config
    assert config.data.paths == ("$HOME/rows.jsonl",) and config.output.dir == "${HOME}/x"
