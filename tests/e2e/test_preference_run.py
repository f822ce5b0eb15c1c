"""Preference runs through the real command: killed while the reference is measured and in mid-run, resumed bit by bit;
every receipt adds up; what is read at the end is about pairs."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from real_ft import Ft, kill, wait

pytestmark = pytest.mark.slow

REAL = Path(__file__).parents[3] / "shared" / "data" / "dpo_en_demo.json"
STEPS = 10
SECTIONS: dict[str, Any] = {
    "data": {"path": "pairs.jsonl", "max_length": 512},
    "method": {"dropout": 0.05},
    "training": {"max_steps": STEPS, "epochs": 20, "gradient_accumulation_steps": 1, "learning_rate": 1e-4},
    "evaluation": {"every": "4 steps", "samples": 1},
    "checkpoints": {"every": "2 steps", "keep": 2},
    "resources": {"memory": "3GB"},
}


def short(row: dict[str, Any]) -> bool:
    turns = [*row["conversations"], row["chosen"], row["rejected"]]
    return sum(len(turn["value"]) for turn in turns) < 1500


def pairs() -> list[dict[str, Any]]:
    """Short real rows where they are at hand, else made ones in the same notation."""
    if REAL.exists():
        return [row for row in json.loads(REAL.read_text("utf-8")) if short(row)][:40]
    return [
        {
            "conversations": [{"from": "human", "value": f"What does code {n} mean, and which part does it name?"}],
            "chosen": {"from": "gpt", "value": f"Code {n} means that part {n * 7 % 13} needs {n + 3} drops of oil."},
            "rejected": {"from": "gpt", "value": f"Nobody knows what {n} means."},
        }
        for n in range(40)
    ]


def ready(folder: Path, **sections: Any) -> Ft:
    ft = Ft(folder)
    ft.write("pairs.jsonl", "".join(json.dumps(row) + "\n" for row in pairs()))
    ft.config(**{**SECTIONS, **sections})
    return ft


def rows(folder: Path, kind: str) -> dict[int, dict[str, Any]]:
    """By step; where a step was done twice, the later attempt counts."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    told = ("loss", "reward_margin", "reward_accuracy", "reward_chosen", "reward_rejected", "kl", "supervised")
    return {row["step"]: {name: row[name] for name in told if name in row} for row in lines if row["kind"] == kind}


def proven(ft: Ft) -> dict[str, Any]:
    """The receipt of a finished run, which verifies."""
    verdict = ft("receipt", "verify", "last", "--json")
    assert verdict.code == 0, verdict.out
    receipt: dict[str, Any] = json.loads((ft.run() / "receipts" / "train.json").read_text())
    assert receipt["supervised"]["promised"] == receipt["supervised"]["counted"] > 0
    return receipt


def result(ft: Ft) -> tuple[Any, ...]:
    folder = ft.run()
    (weights,) = [*folder.glob("adapter/adapter_model.safetensors"), *folder.glob("model/model.safetensors")]
    table = (folder / "reference" / "train.safetensors").read_bytes()
    return rows(folder, "train"), rows(folder, "eval"), weights.read_bytes(), table


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    """The run that nobody disturbs; more than learned: the pairs it learned from are told apart."""
    ft = ready(tmp_path_factory.mktemp("straight"))
    said = ft("train")
    assert said.code == 0, said.err
    proven(ft)
    steps = rows(ft.run(), "train")
    assert sorted(steps) == list(range(1, STEPS + 1))
    assert steps[1]["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert "held-out loss 0.6931, margin 0.000" in said.err.replace("-0.000", "0.000")
    assert "margin" in said.out and "accuracy" in said.out
    return result(ft)


def running(folder: Path) -> bool:
    """Whether a run has begun its work, of which measuring the reference is the first."""
    return any(json.loads(path.read_text())["state"] == "running" for path in folder.glob("runs/*/status.json"))


def killed(ft: Ft, happened: Any, *arguments: str) -> None:
    process = ft.start("train", "train.yml", *arguments)
    wait(happened, process, pause=0.002)
    kill(process)


def test_killed_while_the_reference_is_measured_and_in_mid_run(tmp_path: Path, straight: tuple[Any, ...]) -> None:
    """First before the reference is written, then when that of the held-out rows is, then after some steps."""
    ft = ready(tmp_path)
    killed(ft, lambda: running(ft.folder))
    assert not list(ft.folder.glob("runs/*/reference/train.safetensors"))
    killed(ft, lambda: list(ft.folder.glob("runs/*/reference/train.safetensors")), "--resume")
    table = (ft.run() / "reference" / "train.safetensors").read_bytes()
    step = random.randint(3, STEPS - 2)
    killed(ft, lambda: (ft.run() / "metrics.jsonl").read_text().count('"kind":"train"') >= step, "--resume")
    said = ft("train", "--resume", "--json")
    assert said.code == 0, said.err
    assert (ft.run() / "reference" / "train.safetensors").read_bytes() == table
    proven(ft)
    assert result(ft) == straight, f"killed after step {step}"


def test_full_fine_tuning_learns_from_pairs_too(tmp_path: Path) -> None:
    """The reference is the model before training, kept in the run: a resume cannot ask that model again."""
    training = SECTIONS["training"] | {"learning_rate": 2e-5, "max_steps": 6}
    ft = ready(tmp_path, method="full", training=training)
    killed(ft, lambda: list(ft.folder.glob("runs/*/checkpoints/step-000002/manifest.json")))
    said = ft("train", "--resume")
    assert said.code == 0, said.err
    assert proven(ft)["changed_tensors"]["changed"] > 0
    steps, held_out = rows(ft.run(), "train"), rows(ft.run(), "eval")
    assert steps[1]["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert held_out[6]["loss"] < held_out[0]["loss"]


def test_rated_answers(tmp_path: Path) -> None:
    ft = ready(tmp_path, data="rated.jsonl", training=SECTIONS["training"] | {"max_steps": 6})
    made = [
        {"prompt": f"What is {n // 2}?", "completion": f"It is {n}." if n % 2 else "No.", "label": bool(n % 2)}
        for n in range(48)
    ]
    ft.write("rated.jsonl", "".join(json.dumps(row) + "\n" for row in made))
    said = ft("train")
    assert said.code == 0, said.err
    assert "training.objective = kto" in said.err and "preference.beta = 0.1" in said.err
    proven(ft)
    held_out = rows(ft.run(), "eval")
    assert held_out[0]["loss"] == pytest.approx(0.5, abs=1e-3) and held_out[0]["kl"] < 1e-4
    assert held_out[6]["loss"] < held_out[0]["loss"]


@pytest.mark.parametrize("objective", ["orpo", "simpo", "cpo"])
def test_without_a_reference(tmp_path: Path, objective: str) -> None:
    ft = ready(tmp_path, training=SECTIONS["training"] | {"objective": objective, "max_steps": 6})
    said = ft("train")
    assert said.code == 0, said.err
    proven(ft)
    assert not (ft.run() / "reference").exists()
    held_out = rows(ft.run(), "eval")
    assert held_out[6]["loss"] < held_out[0]["loss"]
    assert {"reward_margin", "reward_accuracy"} <= held_out[6].keys()


def test_a_key_that_nothing_reads_ends_the_command(tmp_path: Path) -> None:
    ft = ready(tmp_path, preference={"margin": 1})
    said = ft("train", "--json")
    assert (said.code, said.document["error"]["code"]) == (2, "config.contradiction")
    assert "preference.margin" in said.out and ft.runs() == []
