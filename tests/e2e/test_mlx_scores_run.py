"""Classes and rewards learned by MLX through the real CLI: what is measured of them, and that torch finds the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from intents import WANTS, requests, table
from real_ft import Ft

pytest.importorskip("torch")
pytest.importorskip("mlx_lm", reason="MLX is not installed")
pytestmark = pytest.mark.slow

ENGINES = ("mlx", "torch")
SHORT: dict[str, Any] = {
    "data": "rows.csv",
    "method": {"dropout": 0.0},
    "training": {"max_steps": 6, "learning_rate": 1e-3},
    "checkpoints": {"every": "3 steps"},
}


def trained(folder: Path, engine: str, **sections: Any) -> Ft:
    ft = Ft(folder)
    ft.write("rows.csv", table(requests(80, 1)))
    ft.config(**SHORT | {"resources": {"memory": "3GB", "engine": engine}} | sections)
    said = ft("train", "--json")
    assert said.code == 0, said.err
    assert said.document["receipt"]["verdict"] == "ok"
    return ft


def measured(ft: Ft, *more: str) -> dict[str, Any]:
    said = ft("evaluate", "last", *more, "--json")
    assert said.code == 0, said.err
    return said.document


def test_both_engines_sort_alike(tmp_path: Path) -> None:
    """The same losses, the same shares of each class in held-out texts, and a receipt that holds."""
    balanced = {"classification": {"class_weights": "balanced"}}
    both = {name: trained(tmp_path / name, name, **balanced) for name in ENGINES}
    found, losses = {}, {}
    for name, ft in both.items():
        run = ft.run()
        receipt = json.loads((run / "receipts" / "train.json").read_text())
        assert receipt["engine"]["engine"] == name and receipt["engine"]["modules_to_save"] == ["score"]
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        losses[name] = [line["loss"] for line in lines if line["kind"] in ("train", "eval")]
        found[name] = measured(ft)
        assert found[name]["settings"]["engine"] == name
        assert ft("receipt", "verify", "last").code == 0
    assert losses["mlx"] == pytest.approx(losses["torch"], rel=1e-4)
    ours, theirs = found["mlx"], found["torch"]
    assert set(ours["figures"]) == set(theirs["figures"]) >= {"accuracy", "macro_f1"}
    assert [one["name"] for one in ours["classes"]] == sorted(WANTS)
    assert len(ours["rows"]) == len(theirs["rows"]) > 0
    for one, other in zip(ours["rows"], theirs["rows"], strict=True):
        assert one["tuned"]["shares"] == pytest.approx(other["tuned"]["shares"], abs=1e-4)
    table = both["mlx"]("evaluate", "last")
    assert table.code == 0 and all(part in table.out for part in ("commonest class", "macro F1", "precision"))


def test_all_weights_and_a_checkpoint(tmp_path: Path) -> None:
    ft = trained(tmp_path, "mlx", method="full")
    settings = json.loads((ft.run() / "model" / "config.json").read_text())
    assert settings["architectures"] == ["LlamaForSequenceClassification"]
    assert not (ft.run() / "model" / "generation_config.json").exists()
    assert measured(ft)["settings"]["engine"] == "mlx"
    early = measured(ft, "--checkpoint", "step-3")
    assert early["checkpoint"] == "step-3" and early["rows"] != measured(ft)["rows"]
    assert ft("receipt", "verify", "last").code == 0


def test_a_reward(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"Tell me about thing {n}.", "chosen": f"Gladly: thing {n} is useful.", "rejected": f"No {n}."}
        for n in range(40)
    ]
    ft = Ft(tmp_path)
    ft.write("rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    training = {"objective": "reward", "max_steps": 8, "learning_rate": 1e-3}
    ft.config(training=training, resources={"memory": "3GB", "engine": "mlx"})
    said = ft("train", "--json")
    assert said.code == 0, said.err
    assert said.document["figures"]["eval_loss"] < said.document["figures"]["base_loss"]
    document = measured(ft)
    assert (document["task"], document["settings"]["engine"]) == ("reward", "mlx")
    assert all(row["tuned"]["chosen"] != row["tuned"]["rejected"] for row in document["rows"])
    assert ft("receipt", "verify", "last").code == 0
