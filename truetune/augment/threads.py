"""Many waits at once, given up at once: threads that never hold up the end of the program, as those of
`concurrent.futures` do until their last answer is there."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def together(work: Callable[[T], R], items: Sequence[T], many: int) -> list[R]:
    """What `work` makes of each item, in their order, at most `many` at a time.

    The first error is raised here; what has not begun by then never does. So it is on Ctrl-C.
    """
    waiting: queue.SimpleQueue[tuple[int, T]] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, R | BaseException]] = queue.SimpleQueue()
    for item in enumerate(items):
        waiting.put(item)

    def drop() -> None:
        with suppress(queue.Empty):
            while True:
                waiting.get_nowait()

    def serve() -> None:
        with suppress(queue.Empty):
            while True:
                place, item = waiting.get_nowait()
                result = attempt(work, item)
                if isinstance(result, BaseException):
                    drop()
                done.put((place, result))

    for _ in range(min(many, len(items))):
        threading.Thread(target=serve, daemon=True).start()
    found: dict[int, R] = {}
    try:
        while len(found) < len(items):
            place, result = done.get()
            if isinstance(result, BaseException):
                raise result
            found[place] = result
    finally:
        drop()
    return [found[place] for place in range(len(items))]


def attempt(work: Callable[[T], R], item: T) -> R | BaseException:
    try:
        return work(item)
    except BaseException as error:  # raised where it can be caught: in the thread that asked
        return error
