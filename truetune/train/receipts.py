"""The bodies of a run's receipts: what went in, what reached the loss, what came out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from truetune.data import objectives
from truetune.data.prepare import Prepared
from truetune.engines.base import TrainEngine
from truetune.errors import TrainingError
from truetune.runs import durable, receipt
from truetune.runs.run import CHANGES, Run
from truetune.train import reference
from truetune.train.state import State

OWN = ("train.yml", "resolved.json", "env.json", "rejects.jsonl")
"""Files of a run that are there before its first step and never change."""


def write_data(run: Run, prepared: Prepared) -> None:
    """Stage `data`: inputs by hash, rows and tokens by fate, how they were rendered."""
    present = [name for name in OWN if (run.folder / name).is_file()]
    receipt.write(run, "data", prepared.report | {"files": hashes(run.folder, present)})


def write_train(
    run: Run, state: State, engine: TrainEngine, promise: dict[str, int], base: dict[str, Any], result: Path, step: int
) -> None:
    """Stage `train`: what the loss has seen against what the data promised, and the files that came out.

    `promise` is what the steps that were taken held. Raises TrainingError where nothing was learned.
    """
    config = run.resolved["config"]
    changed, of = engine.changed()
    kept = [*sorted(result.rglob("*")), *sorted((run.folder / reference.FOLDER).glob("*"))]
    kept += [run.folder / CHANGES]
    made = [str(path.relative_to(run.folder)) for path in kept if path.is_file()]
    body = {
        "base": base,
        "objective": config["training"]["objective"],
        "method": config["method"]["type"],
        "engine": engine.describe(),
        "files": hashes(run.folder, made),
        "steps": state.step,
        "result_step": step,
        "examples": {"promised": promise["examples"], "counted": state.examples},
        "supervised": {"promised": promise["supervised"], "counted": state.supervised},
        "tokens": state.tokens,
        "loss": {"first": state.first_loss, "last": state.last_loss},
        "grad_norm": {"min": state.min_grad_norm, "max": state.max_grad_norm, "flat": flat(config)},
        "changed_tensors": {"changed": changed, "of": of},
        "resumes": state.resumes,
        "changes": sorted(state.changes + state.moves, key=lambda change: int(change["step"])),
        "skipped": state.skipped,
        "oom": state.oom,
        "memory": {"peak": engine.usage().peak},
    }
    receipt.write(run, "train", body)
    refuse_untrained(run, state, changed, flat(config))
    refuse_miscounted(run, state, promise)


def refuse_miscounted(run: Run, state: State, promise: dict[str, int]) -> None:
    if (state.examples, state.supervised) != (promise["examples"], promise["supervised"]):
        raise TrainingError(
            f"{state.supervised:,} supervised tokens of {state.examples:,} examples reached the loss, "
            f"but the data promised {promise['supervised']:,} of {promise['examples']:,}",
            code="train.miscounted",
            where=run.id,
            hint="This is a bug in the engine: what was trained is not what the data says. Please report it.",
        )


def flat(config: dict[str, Any]) -> bool:
    """Whether the loss is flat where every answer is told apart far enough: a step of such pairs has no gradient."""
    compares = objectives.of(config["training"]["objective"]).compares
    return bool(compares and config["preference"]["loss"] == "hinge")


def refuse_untrained(run: Run, state: State, changed: int, flat: bool) -> None:
    if changed and (state.max_grad_norm if flat else state.min_grad_norm):
        return
    what = "no trained tensor differs from its start" if not changed else "the gradient was zero in some step"
    raise TrainingError(
        f"nothing was learned: {what}",
        code="train.nothing_learned",
        where=run.id,
        hint="Look at `ft receipt show`: are tokens supervised, is training.learning_rate above zero?",
    )


def write_eval(run: Run, state: State, prepared: Prepared, step: int, loss: float) -> None:
    """Stage `eval`: held-out loss of the start and of the result."""
    body = {
        "rows": prepared.validation.rows,
        "supervised": prepared.validation.supervised,
        "base": measured(state.base_loss, prepared.objective),
        "tuned": measured(loss, prepared.objective),
        "checkpoint": f"step-{step}",
    }
    receipt.write(run, "eval", body)


def measured(loss: float | None, objective: str) -> dict[str, float | None]:
    """A mean loss, and where it is one of tokens, in nats, its perplexity exp(loss)."""
    if loss is None or objectives.of(objective).unit != "tokens":
        return {"loss": loss, "perplexity": None}
    return {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}


def hashes(folder: Path, names: list[str]) -> dict[str, str]:
    return {name: durable.digest(folder / name) for name in names}
