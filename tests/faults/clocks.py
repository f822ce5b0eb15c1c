"""A wall clock that is wrong: it jumps by hours and years, forward and back, whenever it is looked at."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import failing
import pytest
import small_run

from truetune.api.status import described
from truetune.runs.metrics import Metrics
from truetune.runs.run import Run
from truetune.runs.status import Status

HOUR, YEARS = 3600.0, 10 * 365.25 * 86400
JUMPS = (HOUR, -HOUR, YEARS, -YEARS)
REAL = time.time


class Clock:
    """Stands in for `time.time`. Each look has one chance in `rare` to find that the clock was set anew."""

    def __init__(self, seed: int, rare: int = 4) -> None:
        self.draw, self.rare, self.offset, self.jumps = random.Random(seed), rare, 0.0, 0

    def __call__(self) -> float:
        if self.draw.randrange(self.rare) == 0:
            self.jump(self.draw.choice([0.0, *JUMPS]))
        return REAL() + self.offset

    def jump(self, offset: float) -> None:
        """The clock is now so far from the right time."""
        self.jumps += offset != self.offset
        self.offset = offset


@contextmanager
def wrong(clock: Clock) -> Iterator[Clock]:
    """Every reader of the wall clock in this process reads this one; the monotonic clock goes on as it does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", clock)
        yield clock


def hunt(count: int, room: Path, seed: int = 0) -> dict[str, Any]:
    """Runs by such a clock until it was set `count` times: killed at a random operation, looked at, and resumed."""
    expected = small_run.result(small_run.start(room / "straight"))
    operations = len(failing.operations(room / "all"))
    clock, draw, found, runs = Clock(seed), random.Random(seed), list[str](), 0
    while clock.jumps < count:
        folder, runs = room / str(runs), runs + 1
        with wrong(clock):
            saved, end = failing.attempt(folder, failing.Failing(draw.randint(1, operations), "killed before"))
            found += [f"{runs}: {text}" for text in seen(folder) + failing.wrong(folder, saved, end, expected)]
            found += [f"{runs}, resumed: {text}" for text in seen(folder)]
    return {"tried": clock.jumps, "runs": runs, "wrong": found}


def seen(folder: Path) -> list[str]:
    """What is wrong in how `ft status` and the log's readers see a run of milliseconds."""
    if not (folder / "resolved.json").exists():
        return []
    run = Run(folder)
    Status.update(run, state="running", steps=10 * small_run.STEPS)
    about = described(run, Status.read(run))
    steps = [row["step"] for row in Metrics(folder / "metrics.jsonl").read("train")]
    eta, silent = about["eta"], about["silent"]
    found = [] if steps == sorted(set(steps)) else [f"the log's order is {steps}"]
    found += [f"eta {eta}"] if eta is not None and not 0 <= eta < 60 else []
    return found + ([f"silent for {silent}"] if silent is not None and silent < 0 else [])
