"""An evaluation in its run: the file, and the receipt that follows from the training's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from proven_run import train_body

from truetune.evaluate import results
from truetune.evaluate.material import Material
from truetune.evaluate.sampling import settled
from truetune.evaluate.subject import Subject, find_subject
from truetune.runs import durable, receipt
from truetune.runs.run import Run
from truetune.runs.verify import verify

WEIGHTS = "adapter/adapter_model.safetensors"


def failed(run: Run) -> list[tuple[str, str, str]]:
    return [(item.stage, item.name, item.state) for item in verify(run) if item.failed]


@pytest.fixture
def subject(proven: Run) -> Subject:
    """The result of the run, which is that of step 3."""
    return replace(find_subject("starter"), name=proven.id, run=proven, adapter=proven.folder / "adapter", step=3)


GREEDY = {"generate": True, "temperature": 0.0, "top_p": 1.0, "top_k": 0, "seed": 0}


def save(
    subject: Subject, inputs: list[dict[str, Any]] | None = None, loss: float = 2.0, rows: int = 2, **asked: Any
) -> str | None:
    """Save a result of the held-out rows, or of those of `inputs`."""
    data = {"held_out": inputs is None, "inputs": inputs or [], "rows": rows, "available": 2, "contaminated": 0}
    usual = settled(subject.generation, {})["max_new_tokens"]
    chosen = {"task": "chat", "settings": GREEDY | {"max_new_tokens": usual} | asked}
    figure = {"title": "loss", "headline": True, "base": {"value": 3.0}, "tuned": {"value": loss}}
    document = {"checkpoint": results.checkpoint(subject), "data": data, "figures": {"loss": figure}} | chosen
    return results.save(subject, Material("chat", [], data), document)[1]


def described(path: Path) -> dict[str, Any]:
    return {"path": path.name, "resolved": str(path), "sha256": durable.digest(path), "bytes": 1, "rows": 2}


def test_it_follows_from_the_training(proven: Run, subject: Subject) -> None:
    assert save(subject) == "evaluate-step-3"
    body = receipt.read(proven)["evaluate-step-3"]
    assert body["parent"] == receipt.digest(proven, "train")
    assert (list(body["files"]), list(body["weights"])) == (["eval/step-3.json"], [WEIGHTS])
    assert body["figures"] == [{"title": "loss", "base": 3.0, "tuned": 2.0}]
    assert failed(proven) == []


def test_what_is_changed_afterwards_is_named(proven: Run, subject: Subject) -> None:
    save(subject)
    (proven.folder / "eval" / "step-3.json").write_text("{}")
    assert failed(proven) == [("evaluate-step-3", "eval/step-3.json", "changed")]
    (proven.folder / "eval" / "step-3.json").unlink()
    assert failed(proven) == [("evaluate-step-3", "eval/step-3.json", "absent")]
    save(subject, loss=1.5)
    assert failed(proven) == []
    assert json.loads((proven.folder / "eval" / "step-3.json").read_text())["figures"]["loss"]["tuned"]["value"] == 1.5
    (proven.folder / WEIGHTS).write_text("others")
    assert ("evaluate-step-3", WEIGHTS, "changed") in failed(proven)


def test_a_checkpoint_that_is_gone_fails_nothing(proven: Run, subject: Subject) -> None:
    place = proven.folder / "checkpoints" / "step-000001"
    place.mkdir(parents=True)
    (place / "adapter_model.safetensors").write_text("x")
    save(replace(subject, adapter=place, step=1))
    assert failed(proven) == []
    (place / "adapter_model.safetensors").unlink()
    assert failed(proven) == []


def test_rows_of_other_files_stand_beside(proven: Run, subject: Subject, rows: Path) -> None:
    save(subject)
    stage = save(subject, [described(rows)])
    assert stage is not None and stage.startswith("evaluate-step-3-") and len(stage) == len("evaluate-step-3-") + 8
    assert {path.stem for path in (proven.folder / "eval").iterdir()} == {"step-3", stage.removeprefix("evaluate-")}
    rows.write_text("others")
    assert (stage, "rows.jsonl", "changed") in failed(proven)


def test_another_training_leaves_it_behind(proven: Run, subject: Subject, base: Path) -> None:
    save(subject)
    receipt.write(proven, "train", train_body(proven, base) | {"steps": 4})
    assert ("evaluate-step-3", "chain", "changed") in failed(proven)


def test_before_the_training_has_ended_there_is_no_receipt(run: Run) -> None:
    adapter = run.folder / "checkpoints" / "step-000003"
    adapter.mkdir(parents=True)
    assert save(replace(find_subject("starter"), run=run, adapter=adapter, step=3)) is None
    assert (run.folder / "eval" / "step-3.json").exists()
    assert receipt.stages(run) == []


def test_a_quick_look_replaces_no_full_measurement(proven: Run, subject: Subject) -> None:
    looks: list[dict[str, Any]] = [
        {},
        {"rows": 1},
        {"generate": False},
        {"rows": 1, "generate": False},
        {"max_new_tokens": 7},
        {"temperature": 0.5},
        {"temperature": 0.5, "seed": 3},
    ]
    stages = [save(subject, **look) for look in looks]
    assert stages[0] == "evaluate-step-3" and len(set(stages)) == len(looks)
    assert stages == [save(subject, **look) for look in looks]
    assert save(subject, seed=3) == stages[0]  # greedy answers do not depend on it
    assert len(list((proven.folder / "eval").iterdir())) == len(looks)
    assert failed(proven) == []
