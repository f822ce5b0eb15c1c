"""Runs for the tests of the report: figures from curves, and folders as a training leaves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from truetune.config import Config
from truetune.report.gather import Figures
from truetune.runs import receipt
from truetune.runs.metrics import Metrics
from truetune.runs.run import Run
from truetune.runs.status import Status

HELD_OUT = {0: 3.0, 20: 1.8, 40: 1.4, 60: 1.25, 80: 1.19, 100: 1.17}
"""The held-out losses of a healthy run of 100 steps."""


def falling(steps: int = 100, start: float = 3.0, end: float = 1.1) -> list[float]:
    """A loss that falls quickly at first, without noise."""
    return [float(end + (start - end) * np.exp(-5 * step / steps)) for step in range(steps)]


def config(**sections: dict[str, Any]) -> dict[str, Any]:
    """All settings, resolved; `training={"learning_rate": 1}` changes some."""
    body = {"model": {"path": "starter"}, "data": {"path": "rows.jsonl"}}
    values = Config.model_validate(body).model_dump(mode="json")
    values["method"]["type"], values["training"]["objective"] = "lora", "sft"
    for section, chosen in sections.items():
        values[section] |= chosen
    return values


def data(**changes: Any) -> dict[str, Any]:
    """The data receipt of 1,000 rows, 50 of them held out; `rows={"rejected": 3}` and the like change parts."""
    fates = ("rejected", "deduplicated", "contaminated", "too_long", "truncated", "unsupervised")
    body: dict[str, Any] = {
        "objective": "sft",
        "inputs": [
            {"path": "rows.jsonl", "resolved": "/away/rows.jsonl", "sha256": "ab" * 32, "bytes": 1, "rows": 1000}
        ],
        "rows": {"read": 1000, "used": 1000, "train": 950, "validation": 50, **dict.fromkeys(fates, 0)},
        "tokens": {"train": 90_000, "validation": 5_000, "lost": 0},
        "supervised": {"train": 40_000, "validation": 2_000},
        "end_of_turn_supervised": 1.0,
        "rendering": {"template": "chat_template.jinja", "template_sha256": "cd" * 32, "end_token": "<|im_end|>"},
        "lengths": {"min": 10, "median": 90, "p95": 200, "max": 300},
        "rejects": [],
        "findings": [],
        "files": {"resolved.json": "ef" * 32},
    }
    for key, value in changes.items():
        body[key] = body[key] | value if isinstance(value, dict) else value
    return body


def rows(
    losses: list[float], held_out: dict[int, float | None], norms: list[float] | None = None
) -> list[dict[str, Any]]:
    """metrics.jsonl of one attempt."""
    found: list[dict[str, Any]] = []
    for step in range(len(losses) + 1):
        if step:
            figures = {"loss": losses[step - 1], "lr": 1e-4, "grad_norm": (norms or [1.0] * step)[step - 1]}
            found.append(
                {"kind": "train", "step": step, **figures, "tokens": 100, "tokens_per_second": 50.0, "memory": 10**9}
            )
        if step in held_out:
            found.append({"kind": "eval", "step": step, "loss": held_out[step], "rows": 50})
    return found


def made(
    losses: list[float] | None = None,
    held_out: dict[int, float | None] | None = None,
    *,
    norms: list[float] | None = None,
    planned: int | None = None,
    per_epoch: int = 50,
    samples: list[dict[str, Any]] = [],  # noqa: B006
    events: list[dict[str, Any]] = [],  # noqa: B006
    receipts: dict[str, Any] | None = None,
    status: Status | None = None,
    free: int = 10**10,
    **sections: dict[str, Any],
) -> Figures:
    """Figures of a finished run; a healthy one unless told otherwise."""
    losses = falling() if losses is None else losses
    held_out = dict(HELD_OUT) if held_out is None else held_out
    plan = {"steps": planned or len(losses), "steps_per_epoch": per_epoch, "step": 16}
    return Figures(
        id="a-run",
        folder=Path("/runs/a-run"),
        status=status or Status(state="finished", step=len(losses)),
        resolved={"config": config(**sections), "plan": plan, "memory": {"free": free}, "model": {"name": "starter"}},
        metrics=tuple(rows(losses, held_out, norms) + events),
        samples=tuple(samples),
        receipts={"data": data()} if receipts is None else receipts,
    )


def sample(row: int, answer: str, step: int = 100, **changes: Any) -> dict[str, Any]:
    body = {"row": row, "question": f"Question {row}?", "prompt": "…", "base": "Well.", "reference": f"Answer {row}."}
    return {"kind": "sample", "step": step, "ended": True, **body, "answer": answer} | changes


def trained(steps: int = 100, folder: str = "adapter") -> dict[str, Any]:
    """The train receipt."""
    return {
        "base": {"name": "starter", "revision": None, "folder": "/away", "files": {"model.safetensors": "12" * 32}},
        "engine": {"device": "cpu", "dtype": "float32", "parameters": 1000, "trained_parameters": 10},
        "files": {f"{folder}/adapter_config.json": "34" * 32},
        "steps": steps,
        "result_step": steps,
        "examples": {"promised": 1600, "counted": 1600},
        "supervised": {"promised": 80_000, "counted": 80_000},
        "loss": {"first": 3.0, "last": 1.1},
        "grad_norm": {"min": 0.1, "max": 2.0},
        "changed_tensors": {"changed": 4, "of": 4},
        "resumes": [],
        "oom": [],
    }


EVAL = {
    "rows": 50,
    "supervised": 2_000,
    "base": {"loss": 3.0, "perplexity": 20.1},
    "tuned": {"loss": 1.17, "perplexity": 3.2},
    "checkpoint": "step-100",
}


def folder(place: Path, figures: Figures, *, state: str = "finished", **status: Any) -> Run:
    """A run folder that says what the figures say."""
    resolved = figures.resolved | {
        "written": figures.resolved["config"],
        "model": {"name": "starter", "kind": "starter", "revision": None, "folder": str(place)},
    }
    env = {"versions": {"truetune": "0.1.0", "torch": "2.13.0"}}
    run = Run.create(place, train_yml=b"model: starter\n", resolved=resolved, env=env)
    for name, found in (("metrics", figures.metrics), ("samples", figures.samples)):
        log = Metrics(run.folder / f"{name}.jsonl")
        for row in found:
            if row["kind"] == "resume":
                log.resume(row["step"])
            else:
                log.append(**row)
    for stage, body in figures.receipts.items():
        receipt.write(run, stage, body)
    Status.update(run, state=state, step=figures.steps, **status)
    return run
