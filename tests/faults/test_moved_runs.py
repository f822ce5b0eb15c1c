"""Run folders that are moved, alone or with all that stands around them, and copies beside the original: resumed,
verified, measured, exported from there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import truetune as ft
from truetune.errors import Stopped, UsageError
from truetune.models.source import STARTER
from truetune.runs import durable

pytestmark = pytest.mark.slow

STEPS = 6


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with rows and train.yml, and a home of its own."""
    monkeypatch.setenv("TRUETUNE_HOME", str(tmp_path / "home"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    rows = [{"prompt": f"What is {n}?", "completion": f"It is number {n}."} for n in range(30)]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    body = {
        "model": "starter",
        "data": {"path": "rows.jsonl", "validation": 8},
        "training": {"max_steps": STEPS, "batch_size": 2, "gradient_accumulation_steps": 1},
        "evaluation": {"every": "2 steps", "samples": 0},
        "checkpoints": {"every": "1 steps", "keep": 2},
        "resources": {"engine": "torch", "device": "cpu", "memory": "3GB"},
    }
    Path("train.yml").write_text(json.dumps(body))
    return tmp_path


def stopped() -> Path:
    """A run that was stopped after its third step."""
    folders: list[Path] = []

    def stop(kind: str, figures: dict[str, Any]) -> None:
        if kind == "run":
            folders.append(Path(figures["folder"]))
        elif kind == "train" and figures["step"] == 3:
            (folders[0] / "stop").touch()

    with pytest.raises(Stopped):
        ft.train(listener=stop)
    return folders[0]


def weights(folder: Path) -> str:
    return durable.digest(folder / "adapter" / "adapter_model.safetensors")


def tree(folder: Path) -> dict[str, str]:
    return durable.digests((path for path in folder.rglob("*") if path.is_file()), folder)


def proven(folder: Path, exported: Path) -> None:
    """All that one does with a run works where it is."""
    assert ft.receipt_verify(str(folder))["verdict"] == "ok"
    assert ft.evaluate(str(folder), generate=False, device="cpu")
    assert ft.export(str(folder), format="peft", out=exported)["parity"]["ok"]


def test_a_moved_run_and_a_copy_beside_it(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = Path(ft.train().folder)
    run = stopped()
    copy = shutil.copytree(run, run.parent / "a-copy")
    before = tree(run)
    assert Path(ft.train(from_=str(copy)).folder) == copy
    assert tree(run) == before, "the original is touched by a resume of its copy"
    moved = Path(shutil.move(run, here / "elsewhere"))
    monkeypatch.chdir(here)
    assert Path(ft.train(from_=str(moved)).folder) == moved
    for folder in (copy, moved):
        assert weights(folder) == weights(straight)
        assert json.loads((folder / "receipts" / "train.json").read_text())["resumes"] == [3]
    finished = Path(shutil.move(straight, here / "finished"))
    proven(finished, here / "out-finished")
    proven(moved, here / "out-moved")


def test_a_project_that_is_moved_as_a_whole(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its rows, its template and its model; and a strange file stands where one of them was looked for."""
    shutil.copytree(STARTER, "base")
    Path("turns.jinja").write_text((STARTER / "chat_template.jinja").read_text())
    body = json.loads(Path("train.yml").read_text())
    body |= {"model": "./base", "data": body["data"] | {"template": "turns.jinja"}}
    Path("train.yml").write_text(json.dumps(body))
    straight = weights(Path(ft.train().folder))
    run = stopped()
    (here / "elsewhere").mkdir()
    shutil.move(here / "work", here / "elsewhere" / "renamed")
    (here / "work").mkdir()
    monkeypatch.chdir(here / "work")
    Path("rows.jsonl").write_text((here / "elsewhere/renamed/rows.jsonl").read_text().replace("number", "figure"))
    moved = here / "elsewhere" / "renamed" / "runs" / run.name
    with pytest.raises(UsageError) as other:  # a file of this name is where it was when the run was made
        ft.train(from_=str(moved))
    assert other.value.code == "resume.data_changed"
    Path("rows.jsonl").unlink()
    assert Path(ft.train(from_=str(moved)).folder) == moved
    assert weights(moved) == straight
    proven(moved, here / "out")
    names = {item["name"]: item["state"] for item in ft.receipt_verify(str(moved))["items"]}
    assert names["rows.jsonl"] == names["base/model.safetensors"] == "ok"
