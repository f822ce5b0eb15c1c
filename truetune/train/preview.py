"""`--dry-run`: what a training would do, measured as far as it can be without training."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

from truetune.data import objectives
from truetune.data.example import Example
from truetune.data.prepare import Prepared
from truetune.engines.base import Choice, TrainEngine
from truetune.models import facts, fit
from truetune.train import reference
from truetune.train.carry import open_engine, start_state
from truetune.train.resolve import case, longest, plan
from truetune.train.session import Session


def preview(session: Session) -> dict[str, Any]:
    """Values with reasons, steps, memory and time, data findings: JSON-ready."""
    resolved = session.resolved
    with closing(open_engine(session, start_state(session))) as engine:
        measured = measure(session, engine)
    return {
        "model": resolved["model"],
        "config": resolved["config"],
        "reasons": resolved["reasons"],
        "plan": resolved["plan"],
        "memory": resolved["memory"],
        "suggestions": [told.to_json() for told in suggestions(session, measured)],
        "measured": measured,
        "data": session.prepared.report,
        "warnings": list(session.warnings),
    }


def measure(session: Session, engine: TrainEngine) -> dict[str, Any]:
    """Speed and memory of the first step's gradient, computed twice (the first warms up) and thrown away."""
    prepared = session.prepared
    course = plan(session.config, len(prepared.train))
    first = engine.prepare(compared([prepared.train[int(i)] for i in course.order.indices(0)], prepared, engine))
    engine.rehearse(first)
    started = time.monotonic()
    engine.rehearse(first)
    rate = first.tokens / (time.monotonic() - started)
    tokens = (
        session.resolved["plan"]["promised"]["tokens"]
        + evaluations(session, course.total) * prepared.validation.tokens / 3
    )
    return {
        "tokens_per_second": rate,
        "seconds": tokens / rate,
        "peak_memory": engine.usage().peak,
        "engine": engine.describe(),
    }


def compared(examples: list[Example], prepared: Prepared, engine: TrainEngine) -> Sequence[Example]:
    """The examples with what the model thinks of them, where the objective compares with that."""
    if not objectives.of(prepared.objective).reference:
        return examples
    table = reference.opinions(examples, lambda part: engine.scores(engine.prepare(part), base=True))
    return reference.Referenced(examples, table)


def suggestions(session: Session, measured: dict[str, Any]) -> list[fit.Suggestion]:
    """Where it fits with gradient checkpointing only: what to change to do without."""
    resolved, train = session.resolved, session.prepared.train.lengths
    engine, method = measured["engine"], resolved["config"]["method"]
    tight = case(
        session.config,
        facts.read(session.source.folder),
        Choice(engine["device"], engine["dtype"], "", ""),
        resolved["memory"]["free"],
        longest(session.prepared),
        train,
        packed=engine["micro_batches"] == "packed",
    )
    bits = method["bits"] if method["type"] == "qlora" else 0
    tight = replace(tight, setup=replace(tight.setup, method=method["type"], bits=bits))
    return fit.suggest(tight)


def evaluations(session: Session, steps: int) -> int:
    """How often the held-out rows are measured, about; a forward pass is a third of a step."""
    every = session.config.evaluation.every
    if every is None or every.unit == "minutes":
        return 2
    size = every.count * (session.resolved["plan"]["steps_per_epoch"] if every.unit == "epochs" else 1)
    return 2 + math.floor(steps / size)
