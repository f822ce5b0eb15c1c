"""Small finished runs: the files and receipts that a training leaves, without a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from truetune.runs import durable, receipt
from truetune.runs.run import Run


def finished(folder: Path, weights: str = "weights", adapter: str | None = None, name: str | None = None) -> Run:
    """A run whose adapter holds these weights; `adapter` is what it went on from."""
    config: dict[str, Any] = {
        "model": {"adapter": adapter},
        "output": {"name": name},
        "training": {"objective": "sft", "learning_rate": 2e-4},
        "method": {"type": "lora", "r": 16},
    }
    resolved = {"config": config, "model": {"name": "starter"}}
    run = Run.create(folder, train_yml=b"model: starter\n", resolved=resolved, env={"here": str(folder.parent)})
    result = durable.folder(run.folder / "adapter")
    (result / "adapter_config.json").write_text("{}")
    (result / "adapter_model.safetensors").write_text(weights)
    receipt.write(run, "data", {"inputs": [{"path": "rows.jsonl", "sha256": "0" * 64}]})
    files = durable.digests(sorted(result.iterdir()), run.folder)
    base = {"name": "starter", "revision": None, "files": {"model.safetensors": "1" * 64}}
    receipt.write(run, "train", {"base": base, "files": files, "steps": 3})
    receipt.write(run, "eval", {"base": {"loss": 3.0}, "tuned": {"loss": 2.0}})
    return run
