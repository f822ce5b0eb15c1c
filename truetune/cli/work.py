"""Work that takes a while: a bar with the time that is left in a terminal, plain lines elsewhere. On stderr."""

from __future__ import annotations

import time

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from truetune.cli.common import Output
from truetune.report.words import clock

QUIET_SECONDS = 10.0
"""Without a terminal: most seconds between two lines."""


class Work:
    """`work("tuned: loss", 3, 50)` as it goes on; a new stage has a bar of its own."""

    def __init__(self, out: Output) -> None:
        self.out = out
        self.stage = ""
        self.started = self.printed = time.monotonic()
        self.bar: Progress | None = None
        self.task = TaskID(0)

    def __call__(self, stage: str, done: int, total: int | None, *, ends: bool = True) -> None:
        """`total`: None where nobody knows yet. `ends`: without a terminal the end is told, however short it took."""
        if stage != self.stage:
            self._begin(stage, total)
        if self.bar:
            self.bar.update(self.task, completed=done, total=total)
        elif (ends and done == total) or time.monotonic() - self.printed >= QUIET_SECONDS:
            self._line(stage, done, total)

    def stop(self) -> None:
        if self.bar:
            self.bar.stop()
        self.bar, self.stage = None, ""

    def _begin(self, stage: str, total: int | None) -> None:
        self.stage = stage
        self.started = self.printed = time.monotonic()
        if not self.out.progress.is_terminal or self.out.quiet:
            return
        if self.bar is None:
            columns = (TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn())
            self.bar = Progress(*columns, console=self.out.progress, transient=True)
            self.bar.start()
        self.task = self.bar.add_task(stage, total=total)

    def _line(self, stage: str, done: int, total: int | None) -> None:
        self.printed = time.monotonic()
        if total is None:
            self.out.note(f"{stage} {done:,}")
            return
        left = (self.printed - self.started) / max(done, 1) * (total - done)
        self.out.note(f"{stage} {done}/{total}" + (f"  ETA {clock(left)}" if left else ""))
