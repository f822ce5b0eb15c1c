"""What a report is made of: all that a run folder says, read once. Nothing is computed again, nothing is judged."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from truetune.runs import jsonfile, receipt
from truetune.runs.metrics import Metrics, Row
from truetune.runs.run import Run
from truetune.runs.status import Status

Point = tuple[int, float]
"""A step, and the mean token loss after it, in nats."""


@dataclass(frozen=True)
class Figures:
    """A run as its files tell it. What was never reached is empty: no evaluation, no sample, no receipt."""

    id: str
    folder: Path
    status: Status = field(default_factory=Status)
    resolved: dict[str, Any] = field(default_factory=dict)
    env: dict[str, Any] = field(default_factory=dict)
    metrics: tuple[Row, ...] = ()
    """The rows of metrics.jsonl that count, in order."""
    samples: tuple[Row, ...] = ()
    receipts: dict[str, dict[str, Any]] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    """Stage -> sha256 of its receipt."""
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name -> what stands in eval/<name>.json."""

    def get(self, key: str, default: Any = None) -> Any:
        """A value of the resolved settings, dotted: `training.learning_rate`."""
        return at(self.resolved.get("config"), key, default)

    def of(self, stage: str, key: str, default: Any = None) -> Any:
        """A value of a receipt, dotted: `of("data", "rows.read")`."""
        return at(self.receipts.get(stage), key, default)

    def rows(self, kind: str) -> list[Row]:
        return [row for row in self.metrics if row["kind"] == kind]

    @cached_property
    def train(self) -> list[Row]:
        """The steps whose loss is a number."""
        return [row for row in self.rows("train") if number(row.get("loss"))]

    @cached_property
    def held_out(self) -> list[Point]:
        return [(row["step"], row["loss"]) for row in self.rows("eval") if number(row.get("loss"))]

    @cached_property
    def losses(self) -> NDArray[np.float64]:
        """Train losses in the order of the steps [N]."""
        return self.column("loss")

    def column(self, name: str) -> NDArray[np.float64]:
        """A figure of every step [N]; NaN where a step has none."""
        return np.array([row[name] if number(row.get(name)) else math.nan for row in self.train], dtype=np.float64)

    @property
    def steps(self) -> int:
        """Steps that were taken."""
        return max([self.status.step, *(int(row["step"]) for row in self.train)])

    @property
    def planned(self) -> int:
        return int(at(self.resolved, "plan.steps") or self.status.steps or self.steps)

    @property
    def base(self) -> float | None:
        """Held-out loss before the first step."""
        return next((loss for step, loss in self.held_out if step == 0), None)

    @property
    def tuned(self) -> list[Point]:
        """Held-out losses after at least one step."""
        return [(step, loss) for step, loss in self.held_out if step > 0]

    @property
    def best(self) -> Point | None:
        return min(self.tuned, key=lambda point: point[1], default=None)

    @property
    def result(self) -> Point | None:
        """The evaluation of what the run leaves behind: of the best checkpoint, or of the last one."""
        if not self.tuned:
            return None
        return self.best if self.get("checkpoints.best", True) else self.tuned[-1]

    @property
    def finished(self) -> bool:
        return self.status.state == "finished"

    @property
    def early(self) -> bool:
        """Whether early stopping ended it."""
        return self.finished and self.steps < self.planned

    @property
    def pretraining(self) -> bool:
        return bool(self.get("training.objective") == "pretrain")

    @property
    def epochs(self) -> float:
        """Passes over the rows that were planned."""
        per_epoch: int = at(self.resolved, "plan.steps_per_epoch", 1)
        return self.planned / max(1, per_epoch)

    @property
    def tokens(self) -> int:
        return sum(int(row.get("tokens") or 0) for row in self.train)

    @property
    def seconds(self) -> float:
        """Time in steps: evaluations, samples and checkpoints are not in it."""
        speeds = [(row.get("tokens"), row.get("tokens_per_second")) for row in self.train]
        return float(sum(tokens / speed for tokens, speed in speeds if tokens and speed))

    @property
    def memory(self) -> int | None:
        """Most memory in use after a step, in bytes."""
        return max((int(row["memory"]) for row in self.train if number(row.get("memory"))), default=None)


def gather(run: Run) -> Figures:
    """Read a run folder. Raises InputError where resolved.json cannot be read; all else may be missing."""
    stages = {stage: _json(receipt.path(run, stage)) for stage in receipt.stages(run)}
    receipts = {stage: body for stage, body in stages.items() if body}
    return Figures(
        id=run.id,
        folder=run.folder,
        status=Status.read(run),
        resolved=run.resolved,
        env=_json(run.folder / "env.json"),
        metrics=tuple(Metrics(run.folder / "metrics.jsonl").read()),
        samples=tuple(Metrics(run.folder / "samples.jsonl").read("sample")),
        receipts=receipts,
        digests={stage: receipt.digest(run, stage) or "" for stage in receipts},
        scores={path.stem: _json(path) for path in sorted((run.folder / "eval").glob("*.json"))},
    )


def _json(path: Path) -> dict[str, Any]:
    """The object in a file; empty where there is none."""
    try:
        return jsonfile.parse(path.read_bytes()) or {}
    except OSError:
        return {}


def at(body: Any, key: str, default: Any = None) -> Any:
    """`at({"a": {"b": 1}}, "a.b")` -> 1; the default where something on the way is missing or null."""
    for part in key.split("."):
        body = body.get(part) if isinstance(body, dict) else None
    return default if body is None else body


def number(value: Any) -> bool:
    """Whether it is a finite number; the files write null for what is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
