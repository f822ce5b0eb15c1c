"""The receipts of a small finished run, as `truetune.train` writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from truetune.runs import durable
from truetune.runs.run import Run

ADAPTER = ("adapter/adapter_config.json", "adapter/adapter_model.safetensors")
BASE = ("config.json", "model.safetensors", "tokenizer.json")
CONFIG = ("train.yml", "resolved.json", "env.json", "rejects.jsonl")


def data_body(run: Run, rows: Path) -> dict[str, Any]:
    return {
        "inputs": [
            {
                "path": rows.name,
                "resolved": str(rows),
                "sha256": durable.digest(rows),
                "bytes": rows.stat().st_size,
                "rows": 10,
            }
        ],
        "files": durable.digests([run.folder / name for name in CONFIG], run.folder),
        "rows": {
            "read": 10,
            "rejected": 1,
            "deduplicated": 1,
            "contaminated": 0,
            "too_long": 0,
            "unsupervised": 0,
            "truncated": 2,
            "used": 8,
            "train": 6,
            "validation": 2,
        },
        "tokens": {"train": 600, "validation": 200, "lost": 12},
        "supervised": {"train": 300, "validation": 100},
        "end_of_turn_supervised": 1.0,
    }


def train_body(run: Run, base: Path) -> dict[str, Any]:
    return {
        "base": {
            "name": "starter",
            "revision": None,
            "folder": str(base),
            "files": durable.digests([base / name for name in BASE], base),
        },
        "engine": {"device": "cpu", "dtype": "float32", "parameters": 1000, "trained_parameters": 10},
        "files": durable.digests([run.folder / name for name in ADAPTER], run.folder),
        "steps": 3,
        "examples": {"promised": 6, "counted": 6},
        "supervised": {"promised": 300, "counted": 300},
        "loss": {"first": 3.0, "last": 2.0},
        "grad_norm": {"min": 0.1, "max": 2.0},
        "changed_tensors": {"changed": 4, "of": 4},
        "resumes": [2],
        "oom": [],
    }


EVAL = {
    "rows": 2,
    "supervised": 100,
    "base": {"loss": 3.0, "perplexity": 20.0},
    "tuned": {"loss": 2.0, "perplexity": 7.4},
    "checkpoint": "step-3",
}


def card(run: Run, digest: str) -> None:
    (run.folder / "adapter" / "README.md").write_text(f"# An adapter\n\nreceipt: sha256:{digest}\n")
