"""Work on a thread beside the training, one piece at a time: checkpoints are written by it."""

from __future__ import annotations

import threading
from collections.abc import Callable

GIVEN_UP = "the save was given up"


class GivenUp(Exception):
    """The program ends at once, and does not wait for what is being written."""


class Saver:
    """`start(step, work)`, then `wait()`, which tells which step was saved, or raises what stopped the work.

    The thread is none of those that end with the program unfinished: whoever leaves waits for it, or gives up.
    """

    def __init__(self) -> None:
        self.step = 0
        self.error: BaseException | None = None
        self.done = self.hurry = False
        self.thread = threading.Thread()
        self.idle = threading.Event()

    def start(self, step: int, work: Callable[[], None]) -> None:
        """Begin; what was begun before has been waited for."""
        self.step, self.error, self.done = step, None, False
        self.idle.clear()
        self.thread = threading.Thread(target=self._run, args=(work,), name=f"save-step-{step}")
        try:
            self.thread.start()
        except RuntimeError:  # the system has no more threads
            self._run(work)

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
            self.done = True
        except BaseException as error:
            self.error = error
        finally:
            self.idle.set()

    def ended(self) -> bool:
        """Whether `wait` returns at once, with something to tell if it was not asked yet."""
        return self.idle.is_set()

    def wait(self) -> int | None:
        """The step that was saved since the last call; None for none. Raises what the work raised."""
        self.join()
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        done, self.done = self.done, False
        return self.step if done else None

    def join(self) -> None:
        """Until nothing is being written. A `Thread.join` that a signal interrupts may take the thread for one that has
        ended (bpo-45274), so it is asked at the very end only."""
        while self.thread.is_alive() and not self.idle.wait(1):
            pass
        if self.thread.is_alive():
            self.thread.join()

    def give_up(self) -> None:
        """Have the work end at its next `check`."""
        self.hurry = True

    def check(self) -> None:
        """Called by the work between two files. Raises GivenUp."""
        if self.hurry:
            raise GivenUp(GIVEN_UP)
