"""How torch's threads on a CPU wait for each other: spinning where the cores are free, asleep where others need them.

OpenMP's threads spin for some milliseconds before they sleep. On free cores that makes steps up to half as fast again;
beside a busy process they spin away the time that the very threads they wait for need, and steps take several times as
long. libgomp, the OpenMP of torch on Linux, decides at each wait: it spins only while there are no more threads in its
teams than cores. So a thread that does nothing but hold a team of its own has all others sleep at once when they wait,
and they spin again when it is gone. See docs/decisions/020.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from threading import Event, Thread
from time import monotonic

import psutil
import torch

from truetune import paths

PAUSE = 1.0
"""Seconds between two looks at what others do."""
SLACK = 0.25
"""Cores that others may take from our threads before these sleep."""
MOST = 8
"""Teams that are held; where it took more, few threads compute on many cores, and they spin."""
PARALLEL = 2**18
"""Elements of a sum that torch gives to all its threads."""


def watch() -> None:
    """From now on, fit how threads wait to what else the machine does; once in a process. Whoever has told OpenMP how
    to wait is obeyed."""
    told = any(map(paths.variable, ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")))
    if sys.platform == "linux" and not told and torch.get_num_threads() > 1:
        watcher(os.getpid(), torch.get_num_threads())


@cache
def watcher(process: int, threads: int) -> Watcher:
    """The one of this process for so many computing threads; a forked child is another."""
    found = Watcher(threads)
    found.start()
    return found


class Watcher(Thread):
    """Looks every `PAUSE` seconds at what others do, and holds teams while they need the cores."""

    def __init__(self, threads: int) -> None:
        super().__init__(name="waits", daemon=True)
        self.threads = threads
        self.teams: list[Team] = []

    def run(self) -> None:
        pause = Event()
        with suppress(OSError, psutil.Error):  # a system that does not say what its cores do: they spin
            others = Others()
            while not pause.wait(PAUSE):
                self.fit(others.cores())

    def fit(self, others: float) -> None:
        """`others`: cores that other processes take."""
        cores = len(os.sched_getaffinity(0))
        crowded, teams = others > cores - self.threads + SLACK, needed(cores, self.threads)
        if crowded and not self.teams and teams <= MOST:
            self.teams = [Team() for _ in range(teams)]
        elif not crowded:
            while self.teams:
                self.teams.pop().release()


class Others:
    """What other processes do on the cores that are ours too: how many they took since the last look, on average."""

    def __init__(self) -> None:
        self.before = self.look()

    def look(self) -> tuple[float, float]:
        """(clock, seconds of processor time of all others so far)."""
        ours, own = os.sched_getaffinity(0), psutil.Process().cpu_times()
        every = [core for number, core in enumerate(psutil.cpu_times(percpu=True)) if number in ours]
        return monotonic(), sum(core.user + core.nice + core.system for core in every) - own.user - own.system

    def cores(self) -> float:
        (then, had), self.before = self.before, self.look()
        now, have = self.before
        return max(0.0, (have - had) / max(now - then, 1e-3))


class Team(Thread):
    """A team of OpenMP's threads that does nothing, until it is released."""

    def __init__(self) -> None:
        super().__init__(name="waits-team", daemon=True)
        self.stands, self.done = Event(), Event()
        self.start()
        self.stands.wait()

    def run(self) -> None:
        torch.ones(PARALLEL).sum()
        self.stands.set()
        self.done.wait()

    def release(self) -> None:
        self.done.set()
        self.join()


def needed(cores: int, threads: int) -> int:
    """Teams beside the one that computes until there are more threads than cores; each has `threads` and counts one
    less."""
    return max(1, -(-(cores + 1 - threads) // (threads - 1)))


@contextmanager
def alone() -> Iterator[None]:
    """Within, this thread computes by itself: a team of its own would stay as long as it does, and all would sleep."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
