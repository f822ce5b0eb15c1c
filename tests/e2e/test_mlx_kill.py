"""A run on MLX that is killed goes on as if nothing had happened: bit by bit the straight run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from real_ft import kill, ready, started

pytest.importorskip("mlx_lm", reason="MLX is not installed")
pytestmark = pytest.mark.slow

STEPS = 10
SECTIONS = {
    "method": {"dropout": 0.05},
    "training": {"max_steps": STEPS, "epochs": 20, "batch_size": 4, "gradient_accumulation_steps": 1},
    "evaluation": {"every": "4 steps", "samples": 1},
    "checkpoints": {"every": "3 steps", "keep": 2},
    "resources": {"memory": "3GB", "engine": "mlx"},
}


def result(folder: Path) -> tuple[dict[tuple[str, int], float], bytes]:
    """Every loss by kind and step, and the adapter's bytes."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = {(row["kind"], row["step"]): row["loss"] for row in rows if row["kind"] in ("train", "eval")}
    return losses, (folder / "adapter" / "adapter_model.safetensors").read_bytes()


def test_kill_and_resume(tmp_path: Path) -> None:
    straight, ft = (ready(tmp_path / name, **SECTIONS) for name in ("straight", "killed"))
    said = straight("train", "-q")
    assert said.code == 0, said.err
    expected = result(straight.run())
    assert sum(kind == "train" for kind, _ in expected[0]) == STEPS

    kill(started(ft))
    again = ft("train", "train.yml", "--resume", "--json")
    assert again.code == 0, again.err
    assert result(ft.run()) == expected
    receipt = json.loads((ft.run() / "receipts" / "train.json").read_text())
    assert receipt["engine"]["engine"] == "mlx"
    assert receipt["resumes"] != []
    assert ft("receipt", "verify", "last", "--json").code == 0
