"""Polite stops: Ctrl-C, SIGTERM, SIGUSR1 and the run's `stop` file end a run after its current step, saved."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

from truetune.errors import Forced
from truetune.runs.run import Run

SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGUSR1: "SIGUSR1"}
"""SIGUSR1 is what batch systems can be told to send some time before they end a job."""
GRACE = 20.0
"""Seconds after a SIGTERM in which a step may end. Whoever sends it kills after a while: most give 30 seconds."""


class Late(Exception):
    """The grace is over: the step is given up, as if it had not begun, and the resume takes it."""


class Starting:
    """Before the first step a signal ends the program at once: nothing has been made yet that could be saved.

    What the handler raises may be swallowed by a library that is just being imported, so the end of the block raises
    it once more.
    """

    def __init__(self) -> None:
        self.caught = ""
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Starting:
        self.before = install(self.catch)
        return self

    def __exit__(self, *_: object) -> None:
        restore(self.before)
        if self.caught:
            raise Forced(
                f"stopped by {self.caught} before the first step",
                code="run.not_started",
                hint="Nothing was left behind; run it again.",
            ) from None

    def catch(self, number: int, frame: FrameType | None) -> None:
        self.caught = SIGNALS[signal.Signals(number)]
        raise KeyboardInterrupt


def install(handler: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Take the signals; returns who had them. Outside the main thread they are its caller's."""
    with suppress(ValueError):
        return {number: signal.signal(number, handler) for number in SIGNALS}
    return {}


def restore(before: dict[int, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)


class Stops:
    """`with Stops(run) as stops:` — `stops.reason()` tells why to stop, or nothing. A second signal stops at once, but
    for the SIGTERM that follows a SIGUSR1."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.caught = ""
        self.until = float("inf")
        """When the grace is over, by the monotonic clock."""
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Stops:
        self.before = install(self.catch)
        return self

    def __exit__(self, *_: object) -> None:
        restore(self.before)

    def catch(self, number: int, frame: FrameType | None) -> None:
        name = SIGNALS[signal.Signals(number)]
        if self.caught and (self.caught, name) != ("SIGUSR1", "SIGTERM"):
            raise Forced(
                "stopped at once",
                code="run.forced",
                where=self.run.id,
                hint="The last checkpoint stands; `ft train --resume` goes on from it.",
            )
        self.caught = name
        if name == "SIGTERM":
            self.until = time.monotonic() + GRACE

    def reason(self) -> str:
        return self.caught or ("the stop file" if self.run.stop_requested() else "")

    def hurry(self) -> None:
        """Called between two parts of a step. Raises Late where the grace is over."""
        if time.monotonic() >= self.until:
            raise Late
