"""A training registers what it made, and its name is enough to talk to it, to go on from it and to export it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from real_ft import Ft

pytestmark = pytest.mark.slow


def test_from_a_training_to_its_name(tmp_path: Path) -> None:
    ft = Ft(tmp_path)
    rows = [{"prompt": f"What is {n} plus one?", "completion": f"It is {n + 1}."} for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    few = ("--set", "training.max_steps=2", "--set", "evaluation.samples=0", "--set", "output.name=sums")
    train = ("train", "--model", "starter", "--data", "rows.jsonl", *few, "--json")
    first = ft(*train).document
    assert first["adapter"] == "sums@1"
    second = ft(*train, "--set", "model.adapter=sums@1").document
    assert second["adapter"] == "sums@2"
    shown = ft("adapters", "show", "sums", "--json").document
    assert [parent["adapter"]["address"] for parent in shown["parents"]] == ["sums@1"]
    assert shown["adapter"]["run"] == second["run"]
    assert ft("chat", "sums@1", "What is 3 plus one?", "--max-new-tokens", "4").code == 0
    assert ft("receipt", "verify", "sums@2", "--json").document["verdict"] == "ok"
    assert ft("export", "sums@2", "--format", "peft", "--out", "out", "--json").code == 0
    assert ft("export", "sums@2", "--format", "merged", "--out", "whole", "--json").code == 0
    question = ("What is 3 plus one?", "--max-new-tokens", "8", "--temperature", "0")
    assert ft("chat", "./whole", *question).out == ft("chat", "sums@2", *question).out
    assert ft("adapters", "remove", "sums@1").code == 2
    mixed = ft("adapters", "merge", "sums@1", "sums@2:last", "--weights", "0.5,0.5", "--name", "mix", "--json").document
    assert mixed["adapter"]["address"] == "mix@1" and len(mixed["adapter"]["parents"]) == 2
    assert ft("receipt", "verify", "mix", "--json").code == 0
    small = ft("adapters", "compress", "mix", "--rank", "4", "--dtype", "bf16", "--json").document
    assert small["adapter"]["address"] == "mix@2" and small["figures"]["kl"] >= 0
    assert ft("export", "mix@2", "--format", "merged", "--out", "mixed", "--json").code == 0
    assert ft("runs", "remove", "mix@1", "--yes").code == 2 and ft("runs", "remove", "mix@2", "--yes").code == 0
