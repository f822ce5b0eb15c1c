"""`ft receipt` names the objective and the method, and counts what they count: tokens, pairs, ratings or labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from truetune import cli
from truetune.cli.receipt import page
from truetune.cli.train import arrived

WORDS = {
    "sft": ("supervised tokens", "examples"),
    "dpo": ("answer tokens", "pairs"),
    "kto": ("answer tokens", "rated answers"),
    "classification": ("labels", "texts"),
}
ARRIVED = {
    "sft": "supervised     90 tokens promised, 90 reached the loss",
    "dpo": "pairs          8 promised, 8 reached the loss",
    "kto": "rated          8 answers promised, 8 reached the loss",
    "classification": "labels         90 promised, 90 reached the loss",
}


def stages(kind: str, **train: Any) -> dict[str, dict[str, Any]]:
    """The receipts of a run on rows of a kind; the loss has seen 90 of what is learned, 8 of what goes in at once."""
    rows = {"read": 9, "used": 9, "train": 8, "validation": 1, "truncated": 0}
    data = {
        "objective": kind,
        "inputs": [],
        "rows": rows,
        "tokens": {"train": 300},
        "supervised": {"train": 90},
        "end_of_turn_supervised": None if kind == "classification" else 1.0,
    }
    if kind == "classification":
        data["classes"] = ["no", "yes"]
    body = {
        "base": {"name": "starter", "revision": None, "files": {}},
        "engine": {"device": "cpu", "dtype": "float32", "parameters": 1000, "trained_parameters": 10},
        "steps": 2,
        "examples": {"promised": 8, "counted": 8},
        "supervised": {"promised": 90, "counted": 90},
        "loss": {"first": 3.0, "last": 2.0},
        "grad_norm": {"min": 0.1, "max": 2.0},
        "changed_tensors": {"changed": 4, "of": 4},
        "resumes": [],
        "oom": [],
    }
    loss = {"loss": 1.0, "perplexity": None}
    held = {"rows": 1, "supervised": 12, "base": loss, "tuned": loss, "checkpoint": "step-2"}
    return {"data": data, "train": body | train, "eval": held}


@pytest.mark.parametrize("kind", WORDS)
def test_what_reached_the_loss_has_its_name(kind: str) -> None:
    text = "\n".join(line for _, line in page(stages(kind)))
    learned, examples = WORDS[kind]
    assert f"✓ 90 {learned} reached the loss, 90 were promised" in text
    assert f"✓ 8 {examples} reached the loss, 8 were promised" in text
    assert f"1 row, 12 {learned}, step-2" in text
    assert arrived(stages(kind)) == ARRIVED[kind]


def test_objective_and_method_are_named() -> None:
    lines = [line for _, line in page(stages("dpo", objective="orpo", method="dora"))]
    assert "orpo by dora" in lines
    assert not any(" by " in line for _, line in page(stages("dpo")))  # a receipt of before says neither


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "objective", "said"),
    [
        ({"prompt": "Number {n}?", "chosen": "It is {n}.", "rejected": "No."}, "dpo", "16 pairs"),
        ({"text": "number {n}", "label": "{even}"}, "classification", "16 labels"),
    ],
)
def test_a_training_says_so_in_its_receipt(
    row: dict[str, str],
    objective: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TRUETUNE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    made = [{key: text.format(n=n, even=n % 2 == 0) for key, text in row.items()} for n in range(30)]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, made)))
    quick = ["--set", "training.max_steps=1", "--set", "method.r=2", "--device", "cpu", "--method", "rslora"]
    assert cli.run(["train", "--model", "starter", "--data", "rows.jsonl", *quick]) == 0
    trained = capsys.readouterr()
    assert f"{said} promised to the loss" in trained.err
    assert cli.run(["receipt", "last"]) == 0
    shown = capsys.readouterr().out
    assert f"{objective} by rslora" in shown and f"✓ {said} reached the loss" in shown
    assert cli.run(["receipt", "verify", "last"]) == 0
    assert f"{said.partition(' ')[2]} that the loss has seen" in next(
        Path("runs").glob("*/adapter/README.md")
    ).read_text("utf-8")
