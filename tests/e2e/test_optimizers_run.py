"""Every optimizer once through the real `ft`: trained, and resumed in its middle, to the last bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
from real_ft import Ft

from truetune.config.schema import Training

pytest.importorskip("torch")
pytestmark = pytest.mark.slow

KINDS: tuple[str, ...] = get_args(Training.model_fields["optimizer"].annotation)
SETTINGS: dict[str, dict[str, Any]] = {
    "adamw": {"ema": 0.9, "scheduler": "wsd"},
    "adamw_8bit": {"neftune_alpha": 5, "scheduler": "polynomial"},
    "adafactor": {"min_lr_ratio": 0.1},
    "lion": {"scheduler": "one_cycle", "ema": 0.5, "neftune_alpha": 5},
}
"""What is tried along with it."""


def ready(folder: Path, kind: str, **method: Any) -> Ft:
    ft = Ft(folder)
    ft.rows(40)
    ft.config(
        method=method or {"dropout": 0.05},
        training={"max_steps": 3, "optimizer": kind} | SETTINGS.get(kind, {}),
        evaluation={"every": "2 steps", "samples": 0},
        checkpoints={"every": "1 steps", "keep": 5, "best": False},
        resources={"device": "cpu", "engine": "torch"},
    )
    return ft


def lines(ft: Ft) -> list[tuple[str, int, float]]:
    rows = [json.loads(line) for line in (ft.run() / "metrics.jsonl").read_text("utf-8").splitlines()]
    return sorted({(row["kind"], row["step"], row["loss"]) for row in rows if "loss" in row})


def trained(ft: Ft) -> bytes:
    folder = ft.run() / "adapter"
    (weights,) = (folder if folder.is_dir() else ft.run() / "model").glob("*.safetensors")
    return weights.read_bytes()


def resumed_is_the_same(ft: Ft) -> None:
    said = ft("train", "-q")
    assert said.code == 0, said.err
    weights, losses = trained(ft), lines(ft)
    said = ft("train", "--from", "last:step-2", "-q")
    assert said.code == 0, said.err
    assert trained(ft) == weights and lines(ft) == losses


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("paged")])
def test_it_trains_and_resumes(tmp_path: Path, kind: str) -> None:
    if kind == "adamw_8bit":
        pytest.importorskip("bitsandbytes")
    ft = ready(tmp_path, kind)
    resumed_is_the_same(ft)
    told = json.loads((ft.run() / "receipts" / "train.json").read_text("utf-8"))
    assert told["engine"]["ema"] == SETTINGS.get(kind, {}).get("ema")


def test_a_mean_and_frozen_layers_of_a_whole_model(tmp_path: Path) -> None:
    ft = ready(tmp_path, "adamw", type="full", frozen_layers=2)
    resumed_is_the_same(ft)
    assert ft("receipt", "verify", "last").code == 0
    said = ft("chat", "last:step-2", "What does code 3 mean?", "--json")
    assert said.code == 0, said.err


def test_paging_is_refused_on_a_processor(tmp_path: Path) -> None:
    said = ready(tmp_path, "paged_adamw_8bit")("train", "--json")
    error = said.document["error"]
    assert (said.code, error["code"]) == (4, "device.optimizer")
    assert "optimizer: adamw_8bit`" in error["hint"]
