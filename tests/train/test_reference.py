"""What the model thought of the rows before training: measured once, kept, and the same after a resume."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from safetensors.numpy import load_file

import truetune as ft
from truetune.config import load
from truetune.data.cache import Examples
from truetune.data.contrast import Contrasted, prompt
from truetune.data.example import Example
from truetune.errors import ConfigErrors, InputError, Stopped
from truetune.train import reference


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A working folder with pairs and rated rows, and a home of its own."""
    monkeypatch.setenv("TRUETUNE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    pairs = [{"prompt": f"What is {n}?", "chosen": f"It is number {n}.", "rejected": "Who knows"} for n in range(20)]
    rated = [{"prompt": f"What is {n // 2}?", "completion": f"It is {n}.", "label": n % 2 == 0} for n in range(20)]
    for name, rows in (("pairs", pairs), ("rated", rated)):
        Path(f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def write(data="pairs", name="train.yml", **sections):
    body = {"model": "starter", "data": f"{data}.jsonl", "resources": {"memory": "3GB"}}
    training = {"gradient_accumulation_steps": 1, "max_steps": 3} | sections.pop("training", {})
    body |= {"training": training, "evaluation": {"samples": 0}} | sections
    Path(name).write_text(json.dumps(body))


def losses(run):
    return [row["loss"] for row in run.metrics("train")]


def trained(**sections):
    write(**sections)
    return ft.train()


def stopping(kind, seen, step=0):
    """A listener that asks the run to stop when it hears of `kind`, after so many steps."""

    def listen(heard, figures):
        if heard == "run":
            seen.append(Path(figures["folder"]))
        elif heard == kind and figures.get("step", 0) >= step:
            (seen[0] / "stop").touch()

    return listen


def test_dpo_from_rows_to_receipt():
    run = trained()
    config = json.loads((run.folder / "resolved.json").read_text())["config"]
    assert (config["training"]["objective"], config["preference"]["beta"]) == ("dpo", 0.1)
    tables = {name: load_file(run.folder / "reference" / f"{name}.safetensors") for name in ("train", "validation")}
    assert {name: table["log_probabilities"].shape for name, table in tables.items()} == {
        "train": (run.receipt()["data"]["rows"]["train"], 2),
        "validation": (run.receipt()["data"]["rows"]["validation"], 2),
    }
    first, *_, last = run.metrics("train")
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-4) and abs(first["reward_margin"]) < 1e-3
    assert last["loss"] < first["loss"]
    (start, *_, end) = run.metrics("eval")
    assert start["reward_margin"] == pytest.approx(0, abs=1e-3) and end["reward_margin"] > 0
    receipt = run.receipt()["train"]
    assert receipt["supervised"]["promised"] == receipt["supervised"]["counted"] > 0
    assert {"reference/train.safetensors", "reference/validation.safetensors"} <= receipt["files"].keys()


@pytest.mark.parametrize("objective", ["dpo", "kto", "orpo"])
def test_an_evaluation_measures_what_the_training_measured(objective):
    """By the decoder and numpy, where the training measured with the engine."""
    run = trained(data="rated" if objective == "kto" else "pairs", training={"objective": objective})
    found = run.evaluate(generate=False)["figures"]
    last = run.metrics("eval")[-1]
    margin = last["reward_chosen"] - last["reward_rejected"]
    assert found["preference_loss"]["tuned"]["value"] == pytest.approx(last["loss"], rel=1e-4)
    assert found["reward_margin"]["tuned"]["value"] == pytest.approx(margin, rel=1e-3, abs=1e-4)
    assert found["reward_accuracy"]["tuned"]["value"] == last["reward_accuracy"]
    if objective != "orpo":
        assert found["reward_margin"]["base"]["value"] == 0
        assert found["reward_accuracy"]["base"]["value"] == 0.5


def test_a_stop_in_the_reference_phase_and_in_mid_run_changes_nothing():
    """Stopped while the reference is measured there is no checkpoint yet, and the resume measures it anew."""
    write()
    with pytest.raises(Stopped):
        ft.train(listener=stopping("reference", seen := []))
    assert not (seen[0] / "reference" / "train.safetensors").exists()
    with pytest.raises(Stopped):
        ft.train(resume=True, listener=stopping("train", [seen[0]]))
    before = (seen[0] / "reference" / "train.safetensors").read_bytes()
    run = ft.train(resume=True)
    assert (run.folder / "reference" / "train.safetensors").read_bytes() == before
    write(name="again.yml")
    assert losses(ft.train("again.yml")) == losses(run)


def test_kto_compares_with_the_answers_of_other_rows():
    run = trained(data="rated", preference={"desirable_weight": 1.2})
    table = load_file(run.folder / "reference" / "train.safetensors")["log_probabilities"]
    assert table.shape == (run.receipt()["data"]["rows"]["train"], 2) and (table < 0).all()
    first = next(iter(run.metrics("train")))
    assert 0 <= first["kl"] < 1e-4 and first["supervised"] > 0
    supervised = run.receipt()["train"]["supervised"]
    assert supervised["promised"] == supervised["counted"]


def test_orpo_needs_no_reference():
    run = trained(training={"objective": "orpo"})
    assert not (run.folder / "reference").exists()
    assert {"reward_margin", "reward_accuracy", "sft_loss"} <= next(iter(run.metrics("train"))).keys()


def test_full_fine_tuning_has_its_reference_in_the_run_alone():
    """Its base is gone once it has trained: without the file a resume says so."""
    write(method="full", training={"learning_rate": 1e-4}, checkpoints={"every": "1 steps"})
    with pytest.raises(Stopped):
        ft.train(listener=stopping("train", seen := [], step=2))
    (seen[0] / "reference" / "train.safetensors").unlink()
    with pytest.raises(InputError) as caught:
        ft.train(resume=True)
    assert caught.value.finding.code == "checkpoint.damaged" and "reference" in str(caught.value)


@pytest.mark.parametrize(("data", "objective"), [("pairs", "dpo"), ("rated", "kto")])
def test_a_dry_run_measures_a_step(data, objective):
    write(data=data)
    found = ft.preview()
    assert found["config"]["training"]["objective"] == objective
    assert found["measured"]["tokens_per_second"] > 0


@pytest.mark.parametrize(
    ("data", "objective", "key"),
    [("pairs", "auto", "margin"), ("rated", "auto", "loss"), ("rated", "auto", "label_smoothing")],
)
def test_a_key_that_the_rows_make_useless_is_refused(data, objective, key):
    """Which objective it is shows only when the rows are read."""
    write(data=data, training={"objective": objective}, preference={key: "ipo" if key == "loss" else 0.2})
    with pytest.raises(ConfigErrors) as caught:
        ft.train()
    assert [finding.where for finding in caught.value.findings] == [f"preference.{key}"]


@pytest.mark.parametrize(
    ("objective", "preference", "keys"),
    [
        ("orpo", {"loss": "ipo", "margin": 1}, ["loss", "margin"]),
        ("dpo", {"loss": "hinge", "label_smoothing": 0.1}, ["label_smoothing"]),
        ("kto", {"sft_weight": 1}, ["sft_weight"]),
        ("sft", {"beta": 0.2}, ["beta"]),
        ("simpo", {"desirable_weight": 1}, ["desirable_weight"]),
    ],
)
def test_a_key_that_the_objective_does_not_read_is_refused(objective, preference, keys):
    write(training={"objective": objective}, preference=preference)
    with pytest.raises(ConfigErrors) as caught:
        load(Path("train.yml"))
    wrong = [finding.where.split()[1] for finding in caught.value.findings]
    assert wrong == [f"preference.{key}" for key in keys]


@pytest.mark.parametrize("objective", ["auto", "orpo"])
@pytest.mark.parametrize(("key", "value"), [("train_on", "all"), ("overlap", 8)])
def test_which_tokens_are_trained_is_what_the_rows_compare(objective, key, value):
    write(training={"objective": objective})
    body = json.loads(Path("train.yml").read_text())
    Path("train.yml").write_text(json.dumps(body | {"data": {"path": "pairs.jsonl", key: value}}))
    with pytest.raises(ConfigErrors) as caught:
        ft.train()
    assert [finding.where.split()[-1] for finding in caught.value.findings] == [f"data.{key}"]


@pytest.mark.parametrize(("beta", "good"), [("auto", True), (0.5, True), (0, False), ("much", False), (True, False)])
def test_beta_is_auto_or_a_number(beta, good):
    write(training={"objective": "simpo"}, preference={"beta": beta})
    if good:
        assert load(Path("train.yml")).config.preference.beta == beta
        return
    with pytest.raises(ConfigErrors):
        load(Path("train.yml"))


def made(prompts):
    """Examples over arrays, each a prompt of three tokens and an answer of two."""
    ids = np.concatenate([[p, p, p, 100 + n, 200 + n] for n, p in enumerate(prompts)]).astype(np.int32)
    weights = np.tile(np.float32([0, 0, 0, 1, 1]), len(prompts))
    index = np.array([[5 * n, 5, 2, n, 0, 0, n, 1] for n in range(len(prompts))], np.int64)
    return Examples(ids, weights, np.ones(len(prompts), np.int32), index)


@pytest.mark.parametrize(
    ("prompts", "partners"),
    [([1, 2, 3], [2, 0, 1]), ([1, 1, 2, 2, 1], [3, 3, 1, 1, 3]), ([7, 7], [1, 1]), ([7], [0])],
)
def test_a_contrast_answers_another_prompt(prompts, partners):
    rows = Contrasted(made(prompts))
    assert rows.partners.tolist() == partners
    for place, other in enumerate(partners):
        beside = rows[place].contrast
        assert beside.ids.tolist() == [prompts[place]] * 3 + [100 + other, 200 + other]
        assert prompt(beside).tolist() == [prompts[place]] * 3 and beside.supervised == 2
        assert rows[place].label == (1,) and rows[place].supervised == 2


def test_a_contrast_is_no_longer_than_the_longest_example():
    ids = np.array([1, 1, 1, 1, 9, 2, 8, 8, 8], np.int32)
    weights = np.array([0, 0, 0, 0, 1, 0, 1, 1, 1], np.float32)
    index = np.array([[0, 5, 1, 0, 0, 0, 0, 1], [5, 4, 3, 1, 0, 0, 1, 1]], np.int64)
    rows = Contrasted(Examples(ids, weights, np.ones(2, np.int32), index))
    assert rows[0].contrast.ids.tolist() == [1, 1, 1, 1, 8]
    assert rows[1].contrast.ids.tolist() == [2, 9]


def test_a_table_that_is_not_whole_is_made_again(tmp_path):
    rows = [Example(np.arange(4, dtype=np.int32), np.float32([0, 1, 1, 1]), n) for n in range(3)]
    calls = []

    def measure(examples):
        calls.append(len(examples))
        return np.float32([[-1.0 - example.row] for example in examples])

    path = tmp_path / "reference" / "train.safetensors"
    for _ in range(2):
        found = reference.referenced(rows, path, measure, lambda done: False)
        assert [found[n].reference for n in range(3)] == [(-1.0,), (-2.0,), (-3.0,)]
    assert calls == [3]
    path.write_bytes(path.read_bytes()[:-1])
    reference.referenced(rows, path, measure, lambda done: False)
    reference.referenced([*rows, rows[0]], path, measure, lambda done: False)
    assert calls == [3, 3, 4]
    assert reference.referenced(rows, tmp_path / "other", measure, lambda done: True) is None
    assert not (tmp_path / "other").exists()
