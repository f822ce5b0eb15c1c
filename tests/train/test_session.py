"""Whole trainings through the Python API on the starter: what travels with the result, what a resume refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch")

import truetune as ft
from truetune.config import load
from truetune.errors import InputError, Stopped, UsageError
from truetune.models import tokenizer
from truetune.models.source import STARTER
from truetune.train import session
from truetune.train.reopen import reopen

TEMPLATE = (
    "{% for message in messages %}[{{ message.role }}] {{ message.content }}"
    "{% if message.role == 'assistant' %}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A working folder with 20 rows, and a home of its own."""
    monkeypatch.setenv("TRUETUNE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"What is {n}?", "completion": f"It is number {n}."} for n in range(20)]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def write(**training: object) -> None:
    training = {"gradient_accumulation_steps": 1} | training
    body = {"model": "starter", "data": "rows.jsonl", "training": training, "evaluation": {"samples": 0}}
    Path("train.yml").write_text(json.dumps(body))


def test_the_template_of_the_training_travels_with_the_adapter():
    Path("my.jinja").write_text(TEMPLATE)
    write(max_steps=1)
    run = ft.train(overrides=["data.template=my.jinja"])
    assert (run.adapter / "chat_template.jinja").read_text() == TEMPLATE
    settings = json.loads((run.adapter / "generation_config.json").read_text())
    assert settings["eos_token_id"] == [tokenizer.load(STARTER).id("<|im_end|>")]


def test_a_resume_without_a_name_sees_that_train_yml_has_changed():
    write(max_steps=4, batch_size=4)

    def stop(kind, figures):
        if kind == "run":
            folders.append(Path(figures["folder"]))
        elif kind == "train" and figures["step"] == 2:
            (folders[0] / "stop").touch()

    folders: list[Path] = []
    with pytest.raises(Stopped):
        ft.train(listener=stop)
    write(max_steps=6, batch_size=2)
    with pytest.raises(UsageError) as error:
        ft.train(resume=True)
    assert error.value.finding.code == "resume.changed"
    assert "training.batch_size (4 → 2)" in error.value.finding.message
    assert "max_steps" not in error.value.finding.message
    write(max_steps=6, batch_size=4)
    assert ft.train(resume=True).figures["steps"] == 6


def test_a_resume_sees_that_the_base_has_changed_before_its_first_receipt(here):
    model = here / "model"
    shutil.copytree(STARTER, model)
    body = {"model": str(model), "data": "rows.jsonl", "training": {"max_steps": 4, "batch_size": 4}}
    folders: list[Path] = []

    def stop(kind, figures):
        if kind == "run":
            folders.append(Path(figures["folder"]))
        elif kind == "train" and figures["step"] == 2:
            (folders[0] / "stop").touch()

    with pytest.raises(Stopped):
        ft.train(body | {"evaluation": {"samples": 0}}, listener=stop)
    named = json.loads((folders[0] / "env.json").read_text())["base"]
    assert "model.safetensors" in named["files"] and named["folder"] == str(model)
    settings = json.loads((model / "generation_config.json").read_text())
    (model / "generation_config.json").write_text(json.dumps(settings | {"temperature": 0.5}))
    for look in (lambda: ft.train(from_=str(folders[0])), lambda: ft.generate("Hello", folders[0])):
        with pytest.raises(InputError, match=r"generation_config\.json differs") as error:
            look()
        assert error.value.finding.code == "model.changed"


@pytest.mark.parametrize(
    ("training", "method", "words"),
    [
        ({"epochs": 1, "batch_size": 4, "warmup": 50}, "lora", "never reached"),
        ({"max_steps": 1, "learning_rate": 2e-4}, "full", "high for full fine-tuning"),
    ],
)
def test_what_is_seldom_meant_is_said(training, method, words):
    write(**training)
    heard = []
    ft.train(method=method, listener=lambda kind, figures: heard.append((kind, figures)))
    assert any(words in figures["text"] for kind, figures in heard if kind == "warning")


def test_a_configuration_may_be_a_mapping():
    """What train.yml holds, as Python values; a resume has its settings already."""
    body = {"model": "starter", "data": {"path": "rows.jsonl"}, "evaluation": {"samples": 0}}
    assert ft.preview(body)["config"]["evaluation"]["samples"] == 0
    with pytest.raises(ft.TrueTuneError) as error:
        ft.train(body | {"trainin": {}})
    assert [finding.code for finding in error.value.findings] == ["config.unknown_key"]
    with pytest.raises(UsageError) as refused:
        ft.train(body, resume=True)
    assert refused.value.finding.code == "resume.settings"


@pytest.mark.parametrize("names", [("rows.jsonl", "held.jsonl"), ("r*.jsonl", "sub"), ("../{}/rows.jsonl", "5")])
@pytest.mark.parametrize("config", ["train.yml", "sub/train.yml", None])
def test_a_run_is_opened_again_from_elsewhere(here, monkeypatch, config, names):
    """Its data stood where the training was started, not beside train.yml and not where one stands now."""
    (here / "sub").mkdir()
    held = json.dumps({"prompt": "Held out?", "completion": "Yes."})
    for place in ("held.jsonl", "sub/validation.jsonl"):
        (here / place).write_text(held)
    data, validation = names[0].format(here.name), names[1]
    body = {"model": "starter", "data": {"path": data, "validation": validation}, "training": {"max_steps": 1}}
    if config:
        (here / config).write_text(json.dumps(body))
    loaded = load(Path(config) if config else None, (), None if config else body)
    made = session.gather(loaded.config, loaded.folder)
    run = session.create(made, loaded, here / "runs" / "one")
    (here / "elsewhere").mkdir()
    (here / "elsewhere" / "rows.jsonl").write_text(held)  # another file of this name
    monkeypatch.chdir(here / "elsewhere")
    again = reopen(run)
    places = [[Path(one["resolved"]).resolve() for one in each.prepared.report["inputs"]] for each in (made, again)]
    assert places[0] == places[1] and len(again.prepared.train) == len(made.prepared.train)
    assert again.folder == made.folder

    (here / "rows.jsonl").write_text((here / "rows.jsonl").read_text().replace("number", "figure"))
    with pytest.raises(UsageError) as changed:
        reopen(run)
    assert changed.value.finding.code == "resume.data_changed" and "--data" in changed.value.finding.hint
    (here / "rows.jsonl").unlink()
    (here / "elsewhere" / "rows.jsonl").unlink()
    with pytest.raises(InputError) as gone:
        reopen(run)
    assert gone.value.finding.code == "data.missing" and "--data" in gone.value.finding.hint


def test_a_run_that_was_cut_off_before_its_first_receipt(here):
    body = {"model": "starter", "data": "rows.jsonl", "training": {"max_steps": 1}}
    loaded = load(None, (), body)
    run = session.create(session.gather(loaded.config, loaded.folder), loaded, here / "runs" / "one")
    receipt = run.folder / "receipts" / "data.json"
    before = receipt.read_bytes()
    receipt.unlink()
    reopen(run)
    assert receipt.read_bytes() == before
