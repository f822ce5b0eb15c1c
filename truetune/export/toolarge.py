"""A model that the memory here does not hold: nothing can be asked of it, and its tensors are checked instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from truetune.errors import ResourceError
from truetune.export import stages
from truetune.export.origin import Origin
from truetune.export.runtime import Options
from truetune.export.stages import Said, Stage
from truetune.models import facts, memory

ROOM = 1.2
"""What computing with a model needs beside its weights in float32, at the least: times so much."""
NAME = "none (memory)"
"""Who was asked, as the report says."""


def why(origin: Origin, how: Any) -> str:
    """Why nothing can be asked of it; empty where it can, or where this format holds no model.

    Raises ResourceError `memory.export` before anything is written, where what is folded in memory does not fit.
    """
    if not hasattr(how, "plan"):
        return ""
    need, free = int(facts.read(origin.side.model).parameters * 4 * ROOM), memory.available()
    if need <= free:
        return ""
    figures = f"it needs {memory.readable(need)} of memory, and {memory.readable(free)} is free"
    if not hasattr(how, "sampled") or how.plan(origin) is None:
        raise ResourceError(
            f"this model is folded and compared in memory: {figures}",
            code="memory.export",
            where=origin.name,
            hint="Export it on a machine with more memory, or with --format peft.",
        )
    return figures


def silent() -> Said:
    """A side that cannot be asked."""
    return Said(NAME, (), (), None, (), None)


def made(origin: Origin, how: Any, folder: Path, options: Options, reason: str) -> tuple[str | None, list[Stage]]:
    """Fill the folder; the number type where it is narrower than float32, and the stages: what needs the model is not
    checked, and why; its weights are, tensor by tensor."""
    stored: str | None = how.once(origin, folder, options)
    found = how.sampled(origin, folder)
    words = [Stage(name, "not checked", reason) for name in (stages.TEMPLATE, stages.TOKENIZER, stages.ENDS)]
    weights = Stage(stages.WEIGHTS, "failed" if found.failed else "ok", found.failed or found.told, found.to_json())
    return stored, [*words, weights, Stage(stages.RUNTIME, "not checked", reason)]
