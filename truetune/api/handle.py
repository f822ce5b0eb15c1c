"""A finished run in Python: `run.generate("…")`, `run.metrics()`, `run.adapter`, `run.receipt()`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truetune.errors import InputError
from truetune.runs import receipt
from truetune.runs.metrics import Metrics
from truetune.runs.run import Run
from truetune.train.carry import Outcome

if TYPE_CHECKING:
    from truetune.evaluate.talk import Talk


@dataclass(frozen=True)
class TrainedRun:
    """What `train` returns."""

    id: str
    folder: Path
    result: Path
    """The adapter's folder (PEFT layout), or the whole model's after full fine-tuning."""
    figures: dict[str, Any]
    """steps, loss, base_loss, eval_loss, supervised tokens, seconds of training (None for a run found again)."""

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

    @classmethod
    def found(cls, run: Run) -> TrainedRun:
        """A finished run, from its receipts. Raises InputError `run.unfinished`, UsageError `run.made`."""
        receipt.refuse_made(run)
        stages, places = receipt.read(run), [run.folder / "adapter", run.folder / "model"]
        result = next((place for place in places if place.is_dir()), None)
        if result is None or "train" not in stages:
            raise InputError(
                "this run is not finished, so it has no result",
                code="run.unfinished",
                where=run.id,
                hint=f"Go on with it: ft train --from {run.id}.",
            )
        train, measured = stages["train"], stages.get("eval", {})
        figures = {
            "steps": train["steps"],
            "result_step": train["result_step"],
            "stopped_early": train["steps"] < run.resolved["plan"]["steps"],
            "loss": train["loss"]["last"],
            "base_loss": measured.get("base", {}).get("loss"),
            "eval_loss": measured.get("tuned", {}).get("loss"),
            "tokens": train["tokens"],
            "supervised": train["supervised"]["counted"],
            "seconds": None,
        }
        return cls(run.id, run.folder, result, figures)

    @property
    def adapter(self) -> Path | None:
        """The adapter's folder; None after full fine-tuning."""
        return self.result if self.result.name == "adapter" else None

    @property
    def address(self) -> str | None:
        """Its name and version in the registry, `support@3`; None where it is not registered."""
        from truetune.registry.catalog import Catalog

        found = Catalog().of_run(self.id, self.folder)
        return str(found["address"]) if found else None

    @property
    def report(self) -> Path | None:
        """finetune_report.md, with finetune_report.html beside it; None where there is none."""
        path = self.folder / "finetune_report.md"
        return path if path.is_file() else None

    def metrics(self, kind: str | None = None) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl (`train`, `eval`, …), the last attempt of each step."""
        return Metrics(self.folder / "metrics.jsonl").read(kind)

    def samples(self) -> list[dict[str, Any]]:
        """Answers to held-out prompts, as training went on."""
        return Metrics(self.folder / "samples.jsonl").read("sample")

    def generate(self, prompts: Any, **options: Any) -> Any:
        """The answer to a prompt or a list of messages; for a list of either, a list of answers.

        The model is loaded for each call: for a conversation, `with run.chat() as talk: talk.say("…")`. Options and
        errors are those of `truetune.chat`.
        """
        from truetune.api.chat import generate

        return generate(prompts, str(self.folder), **options)

    def chat(self, **options: Any) -> Talk:
        """A conversation with the tuned model, as `truetune.chat`."""
        from truetune.api.chat import chat

        return chat(str(self.folder), **options)

    def evaluate(self, **options: Any) -> dict[str, Any]:
        """The tuned model against its base on held-out rows; options and errors are those of `truetune.evaluate`."""
        from truetune.api.evaluate import evaluate

        return evaluate(str(self.folder), **options)

    def receipt(self) -> dict[str, Any]:
        """Stage -> receipt."""
        return receipt.read(Run(self.folder))
