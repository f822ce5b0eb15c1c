"""Polite stops: Ctrl-C, SIGTERM and the run's `stop` file end a run after its current step, saved."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

from truetune.errors import Forced
from truetune.runs.run import Run

SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


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
    """`with Stops(run) as stops:` — `stops.reason()` tells why to stop, or nothing. A second Ctrl-C stops at once."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.caught = ""
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Stops:
        self.before = install(self.catch)
        return self

    def __exit__(self, *_: object) -> None:
        restore(self.before)

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
