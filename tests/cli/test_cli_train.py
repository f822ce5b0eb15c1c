"""What a dry run says about rows that are not trained, and the demo with fewer words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from truetune import cli
from truetune.cli.progress import aside, learner


def test_rows_set_aside_are_counted_by_their_fate() -> None:
    rows = dict.fromkeys(("rejected", "deduplicated", "contaminated", "too_long", "truncated", "unsupervised"), 0)
    assert aside(rows) == ""
    assert aside(rows | {"too_long": 1200, "rejected": 2}) == " (2 rejected, 1,200 too long)"


@pytest.mark.parametrize(("new", "said"), [(1, "the rows of 1 new token"), (3, "the rows of 3 new tokens"), (0, "")])
def test_new_tokens_are_counted(new: int, said: str) -> None:
    figures = {"engine": "torch", "device": "cpu", "dtype": "float32", "micro_batches": "packed", "adapted_layers": 0}
    line = learner(figures | {"target_modules": [], "new_tokens": new, "trained_parameters": 1, "parameters": 2})
    assert said in line and ("new token" in line) == bool(new)


@pytest.mark.slow
def test_a_dry_run_names_ten_rows_and_counts_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRUETUNE_HOME", str(tmp_path / "home"))
    rows = [{"prompt": f"p{n}", "completion": "c"} for n in range(20)] * 2
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert cli.run(["train", "--model", "starter", "--data", "rows.jsonl", "--dry-run", "--device", "cpu"]) == 0
    page = capsys.readouterr().out
    assert "40 read, 12 to train on, 8 held out (20 deduplicated)" in page
    assert page.count("the row equals") == 10 and "and 10 more" in page


@pytest.mark.slow
def test_the_demo_can_do_without_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRUETUNE_HOME", str(tmp_path / "home"))
    few = ["--set", "training.max_steps=2", "--set", "resources.device=cpu"]
    assert cli.run(["demo", "--set", "evaluation.samples=0", *few, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "finished"
