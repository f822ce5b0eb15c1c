"""Does the disk hold what a run will save? Asked before the first step, and before each checkpoint."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

from truetune.config import Cadence
from truetune.engines import optimizers
from truetune.engines.base import TrainEngine
from truetune.errors import ResourceError
from truetune.models.memory import readable
from truetune.runs.checkpoints import Checkpoint, Checkpoints
from truetune.runs.run import Run
from truetune.train.plan import Course, Rules

NUMBER = 4
"""Bytes of a trained number in a checkpoint, and in the result."""


def sizes(engine: TrainEngine, config: dict[str, Any]) -> tuple[int, int]:
    """Bytes of a checkpoint and of the result, about: what is trained, and what the optimizer and a running mean keep
    of it."""
    facts, training = engine.describe(), config["training"]
    written = facts["parameters"] if config["method"]["type"] == "full" else facts["trained_parameters"]
    kept = optimizers.kept(training["optimizer"], mean=training["ema"] is not None)
    mean = NUMBER if training["ema"] is not None else 0  # the weights themselves stand beside their mean
    return int(NUMBER * written + (kept + mean) * facts["trained_parameters"]), NUMBER * written


def needed(checkpoint: int, result: int, rules: Rules, course: Course, step: int) -> int:
    """Most bytes that the folder of a run grows to from `step` on: the checkpoints that are kept, the one that is
    written before the oldest goes, and the result."""
    saves = 1.0 + times(rules.save, course, step) + (times(rules.evaluate, course, step) if rules.best else 0)
    most = rules.keep + rules.best
    return int(min(most + 1, saves)) * checkpoint + result


def times(every: Cadence | None, course: Course, step: int) -> float:
    """How often something is due until the end, at most."""
    if every is None:
        return 0
    if every.unit == "minutes":
        return math.inf
    size = every.count * (course.order.per_epoch if every.unit == "epochs" else 1)
    return math.ceil((course.total - step) / size)


def refuse_small(run: Run, engine: TrainEngine, rules: Rules, course: Course, step: int) -> None:
    """Raises ResourceError `disk.too_small` where the disk does not hold what the run will save."""
    checkpoint, result = sizes(engine, run.resolved["config"])
    there = sum(bytes_of(each.folder) for each in Checkpoints(run).list())
    free, more = shutil.disk_usage(run.folder).free, needed(checkpoint, result, rules, course, step) - there
    if more > free:
        raise ResourceError(
            f"the run will save {readable(more)} (checkpoints of {readable(checkpoint)} each, and its result), and the "
            f"disk has {readable(free)} left",
            code="disk.too_small",
            where=str(run.folder),
            hint=f"Free {readable(more - free)}, lower checkpoints.keep, or put output.dir on another disk.",
        )


def refuse_full(folder: Path, newest: Checkpoint | None) -> str:
    """A warning where the disk holds fewer than two more checkpoints like the newest. Raises ResourceError `disk.full`
    where it does not hold one."""
    if newest is None:
        return ""
    size, free = bytes_of(newest.folder), shutil.disk_usage(folder).free
    if free < size:
        raise ResourceError(
            f"no space is left on the disk for a checkpoint: it takes {readable(size)}, and {readable(free)} are free; "
            "everything saved before is whole",
            code="disk.full",
            where=str(folder),
            hint="Free some space, lower checkpoints.keep, or put output.dir on another disk; then go on by --resume.",
        )
    if free >= 2 * size:
        return ""
    return (
        f"the disk has {readable(free)} left, and a checkpoint takes {readable(size)}: "
        "free some space, or lower checkpoints.keep"
    )


def bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
