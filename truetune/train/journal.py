"""What a run tells while it trains: a line of its log, a call of the listener, and its status."""

from __future__ import annotations

import time
from typing import Any

from truetune.listener import Listener
from truetune.runs.metrics import Metrics
from truetune.runs.run import Run
from truetune.runs.status import Status
from truetune.train.plan import Course
from truetune.train.state import State

SHOWN = {"train": ("loss", "lr", "tokens_per_second"), "eval": ("loss",)}
"""Figures that stand in the status, too; those of an evaluation as `eval_…`."""


class Journal:
    """Of one run."""

    def __init__(self, run: Run, state: State, course: Course, listener: Listener) -> None:
        self.run, self.state, self.course, self.listener = run, state, course, listener
        self.log = Metrics(run.folder / "metrics.jsonl")
        self.figures: dict[str, float] = {}
        self.beat = 0.0

    def record(self, kind: str, **figures: Any) -> None:
        """`tell` of the step at which training stands."""
        self.tell(kind, self.state.step, figures)

    def tell(self, kind: str, step: int, figures: dict[str, Any]) -> None:
        """One line in metrics.jsonl, one call of the listener, and at most once a second the status."""
        self.log.append(kind, step, **figures)
        self.listener(kind, {"step": step, "steps": self.course.total} | figures)
        prefix = "eval_" if kind == "eval" else ""
        self.figures |= {prefix + name: figures[name] for name in SHOWN.get(kind, ())}
        now = time.monotonic()
        if now - self.beat < 1 and kind == "train":
            return
        self.beat, reached = now, self.state.step
        progress = {"step": reached, "steps": self.course.total, "epoch": self.course.epoch(reached)}
        Status.update(self.run, **progress, figures=self.figures)

    def warn(self, text: str) -> None:
        """For people only."""
        self.listener("warning", {"text": text})
