"""A training ends with its report, and never fails because of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_run import folder, made

from truetune import cli
from truetune.api import report as verb
from truetune.errors import InputError
from truetune.report import learning, material
from truetune.report import write as module
from truetune.report.advice import advise
from truetune.report.gather import gather
from truetune.report.page import page
from truetune.runs.run import Run
from truetune.runs.status import Status


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A working folder, and a home of its own."""
    monkeypatch.setenv("TRUETUNE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("error", [ValueError("no ink"), KeyboardInterrupt(), InputError("lost", code="x", hint="y")])
def test_a_report_that_fails_is_a_warning(tmp_path, monkeypatch, error):
    def fail(figures):
        raise error

    run, heard = folder(tmp_path / "a-run", made()), []
    monkeypatch.setattr(module, "drawings", fail)
    verb.renew(run, lambda kind, figures: heard.append((kind, figures["text"])))
    (said,) = heard
    assert said[0] == "warning" and "the report could not be written" in said[1]
    assert Status.read(run).state == "finished"


def test_a_report_is_written_again_by_hand(tmp_path):
    run = folder(tmp_path / "a-run", made())
    assert verb.report(str(run.folder)) == run.folder / "finetune_report.md"
    assert (run.folder / "finetune_report.html").is_file()


@pytest.mark.slow
def test_a_training_writes_its_report_and_names_it(capsys):
    pytest.importorskip("torch")
    rows = [{"prompt": f"What is {n}?", "completion": f"It is number {n}."} for n in range(20)]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    quick = ["--set", "training.max_steps=1", "--set", "evaluation.samples=0", "--device", "cpu", "--json"]
    assert cli.run(["train", "--model", "starter", "--data", "rows.jsonl", *quick]) == 0
    said = json.loads(capsys.readouterr().out)
    report, place = Path(said["report"]), Path(said["folder"])
    assert report == place / "finetune_report.md"
    assert "A LoRA adapter for starter, trained on rows.jsonl" in report.read_text("utf-8")
    assert (place / "report" / "loss.png").is_file() and (place / "finetune_report.html").is_file()
    assert cli.run(["receipt", "verify", str(place)]) == 0


@pytest.mark.slow
def test_the_demo_raises_no_alarm(capsys):
    """That it was still improving is no alarm: the demo is short on purpose."""
    pytest.importorskip("torch")
    assert cli.run(["demo", "--set", "resources.device=cpu", "--json"]) == 0
    figures = gather(Run(Path(json.loads(capsys.readouterr().out)["folder"])))
    assert {advice.code for advice in advise(figures, (*learning.RULES, *material.RULES))} <= {"improving"}
    assert len(page(figures).answers) >= 4
