"""A finished run in Python: `run.metrics()`, `run.adapter`, `run.receipt()`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from truetune.runs import receipt
from truetune.runs.metrics import Metrics
from truetune.runs.run import Run
from truetune.train.session import Outcome


@dataclass(frozen=True)
class TrainedRun:
    """What `train` returns."""

    id: str
    folder: Path
    result: Path
    """The adapter's folder (PEFT layout), or the whole model's after full fine-tuning."""
    figures: dict[str, Any]
    """steps, loss, base_loss, eval_loss, supervised tokens, seconds of training."""

    @classmethod
    def of(cls, outcome: Outcome) -> TrainedRun:
        state = outcome.state
        figures = {
            "steps": state.step,
            "result_step": outcome.result_step,
            "stopped_early": outcome.reason == "early",
            "loss": state.last_loss,
            "base_loss": state.base_loss,
            "eval_loss": outcome.eval_loss,
            "tokens": state.tokens,
            "supervised": state.supervised,
            "seconds": round(state.seconds, 3),
        }
        return cls(outcome.run.id, outcome.run.folder, outcome.result, figures)

    @property
    def adapter(self) -> Path | None:
        """The adapter's folder; None after full fine-tuning."""
        return self.result if self.result.name == "adapter" else None

    def metrics(self, kind: str | None = None) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl (`train`, `eval`, …), the last attempt of each step."""
        return Metrics(self.folder / "metrics.jsonl").read(kind)

    def samples(self) -> list[dict[str, Any]]:
        """Answers to held-out prompts, as training went on."""
        return Metrics(self.folder / "samples.jsonl").read("sample")

    def receipt(self) -> dict[str, Any]:
        """Stage -> receipt."""
        return receipt.read(Run(self.folder))
