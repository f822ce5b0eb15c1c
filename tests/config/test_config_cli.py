"""`ft init` and `ft config` as a person runs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from truetune.cli import run


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def document(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, dict[str, Any]]:
    code = run([*args, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_init_then_show_then_edit(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["init", "--model", "starter", "--data", "rows.jsonl", "--profile", "chat"]) == 0
    assert "wrote train.yml" in capsys.readouterr().out
    assert run(["config", "edit", "--set", "training.epochs=7"]) == 0
    capsys.readouterr()
    assert run(["config", "show"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["data.max_length", "4096", "profile", "chat"] in lines
    assert ["training.seed", "42"] in lines
    assert [line[1] for line in lines if line[0] == "training.epochs"] == ["7"]


def test_documents(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert document(capsys, "init", "--out", "a.yml")[1]["path"] == "a.yml"
    code, shown = document(capsys, "config", "show", "a.yml", "--set", "training.seed=1")
    assert (code, shown["schema"], shown["values"]["training"]["seed"]) == (0, 1, 1)
    assert document(capsys, "config", "edit", "a.yml", "--set", "model=x")[1]["values"]["model"]["path"] == "x"
    assert document(capsys, "config", "schema")[1]["json_schema"]["title"] == "Config"
    assert document(capsys, "config", "create", "--out", "b.yml")[0] == 0
    assert (folder / "b.yml").read_text() == (folder / "a.yml").read_text().replace("path: x      ", "path: starter")


def test_schema_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "schema"]) == 0
    assert "training" in json.loads(capsys.readouterr().out)["properties"]


def test_errors_and_exit_codes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, error = document(capsys, "config", "show")
    assert (code, error["error"]["code"]) == (3, "config.no_file")
    (folder / "train.yml").write_text("model: starter\nlr: 3\ndata: {path: x, max_lenght: 3}\n")
    code, error = document(capsys, "config", "show")
    assert code == 2
    assert [one["where"] for one in error["error"]["findings"]] == ["train.yml:2 lr", "train.yml:3 data.max_lenght"]
    assert run(["config", "show"]) == 2
    shown = capsys.readouterr().err
    assert "error: train.yml:3 data.max_lenght: there is no key `max_lenght` in `data`" in shown
    assert "hint: did you mean `max_length`?" in shown
    code, error = document(capsys, "init")
    assert (code, error["error"]["code"]) == (2, "config.exists")
