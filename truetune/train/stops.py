"""Polite stops: Ctrl-C, SIGTERM and the run's `stop` file end a run after its current step, saved."""

from __future__ import annotations

import signal
from contextlib import suppress
from types import FrameType
from typing import Any

from truetune.errors import Forced
from truetune.runs.run import Run

SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class Stops:
    """`with Stops(run) as stops:` — `stops.reason()` tells why to stop, or nothing. A second Ctrl-C stops at once."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.caught = ""
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Stops:
        with suppress(ValueError):  # not the main thread: signals are its caller's
            self.before = {number: signal.signal(number, self.catch) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def catch(self, number: int, frame: FrameType | None) -> None:
        if self.caught:
            raise Forced(
                "stopped at once",
                code="run.forced",
                where=self.run.id,
                hint="The last checkpoint stands; `ft train --resume` goes on from it.",
            )
        self.caught = SIGNALS[signal.Signals(number)]

    def reason(self) -> str:
        return self.caught or ("the stop file" if self.run.stop_requested() else "")
