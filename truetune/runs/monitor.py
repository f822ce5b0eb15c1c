"""`MemoryMonitor`: the memory of a training from outside: its peak, its growth per step, and what it is that grows.

    with truetune.MemoryMonitor() as memory:
        for batch in batches:
            train(batch)
            memory.step()
    print(memory.report())

Three things are measured: the resident memory of the process and its children; what the program holds of the C
library's heap, where glibc tells (a leak fills holes in the heap before it shows from outside); and the device.

Growth is the Theil–Sen slope over the steps after the warm-up: the median of the slopes between all pairs of steps, on
which a jump here and there has no hold (Theil 1950, Proc. KNAW 53, 386–392; Sen 1968, JASA 63, 1379–1389). A training
`grows` where even the slope's lower 99% bound is above what is allowed: Sen's interval from the variance of Kendall's
S, n (n − 1) (2n + 5) / 18.
"""

from __future__ import annotations

import ctypes
import gc
import math
import statistics
import sys
import threading
import time
import tracemalloc
from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations
from types import TracebackType
from typing import Any, ClassVar, Literal

import psutil

from truetune.models.memory import readable
from truetune.runs.suspects import FRAMES, Look, Suspect, look, suspects

WARMUP = 3
"""Steps that are left out at least, and a fifth of all where that is more: caches and pools fill in them."""
FEWEST = 6
"""Steps after the warm-up below which nothing can be said."""
MOST = 300
"""Steps that the slope is taken over; of more, as many evenly spaced ones."""
NOISE = {"rss": 1_000_000, "held": 250_000, "traced": 60_000, "device": 1_000_000}
"""Bytes in all that come and go by themselves."""
ALLOWED = 1024
"""Bytes per step that are no leak: a training writes down its figures."""
Z = 2.576
"""Of the 99% interval."""


@dataclass(frozen=True)
class Report:
    """Sizes in bytes, growth in bytes per step; `device` figures are None without one, `traced` without `trace`."""

    steps: int
    seconds: float
    start: int
    end: int
    peak: int
    peak_at: str
    """The step in which the peak was seen, by its label or number."""
    growth: float
    device_peak: int | None
    device_growth: float | None
    traced_growth: float | None
    verdict: Literal["steady", "grows", "unknown"]
    """`unknown`: too few steps to tell."""
    suspects: tuple[Suspect, ...]
    """What grew, the likeliest first; nothing where the verdict is not `grows`."""

    def __str__(self) -> str:
        told = {
            "steady": "memory is steady",
            "grows": f"memory grows by {readable(max(self.growth, self.device_growth or 0, self.traced_growth or 0))} "
            "per step",
            "unknown": f"too few steps to say whether memory grows (at least {WARMUP + FEWEST})",
        }
        device = f", device peak {readable(self.device_peak)}" if self.device_peak is not None else ""
        lines = [f"{told[self.verdict]}; peak {readable(self.peak)} ({self.peak_at}){device}"]
        return "\n".join([*lines, *(f"  {suspect}" for suspect in self.suspects)])


class MemoryMonitor:
    """Watches this process and its children from `with` to its end; `step` is called after each step.

    trace     also record where memory is allocated, to name the line that leaks: two to four times slower
    usage     the device's bytes in use, called at each step: a function that gives a number or a thing with `now`
              (an engine's `usage`). Without it, torch's CUDA memory where the program has loaded torch
    interval  seconds between two samples: a shorter peak can go unseen
    allowed   bytes per step that may be added without being called growth

    Pages that a child shares with its parent count in both.
    """

    def __init__(
        self,
        *,
        trace: bool = False,
        usage: Callable[[], Any] | None = None,
        interval: float = 0.05,
        allowed: int = ALLOWED,
    ) -> None:
        self.trace, self.usage, self.interval, self.allowed = trace, usage or cuda, interval, allowed
        self.series = {name: array("q") for name in NOISE}
        self.looks: list[Look] = []
        self.peak = self.start = self.end = 0
        self.peak_at = ""
        self.device_peak: int | None = None
        self._high = 0
        self._own = dict.fromkeys(NOISE, 0)
        self._last: dict[str, int] = {}
        self._started = self._seconds = 0.0
        self._tree = Tree()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="MemoryMonitor", daemon=True)
        self._tracing = False

    def __enter__(self) -> MemoryMonitor:
        if self.trace and not tracemalloc.is_tracing():
            tracemalloc.start(FRAMES)
            self._tracing = True
        self._started = time.monotonic()
        self.start = self.end = self.peak = self._tree.rss()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        self._seconds = time.monotonic() - self._started
        self._finish()
        if self._tracing:
            tracemalloc.stop()

    @property
    def steps(self) -> int:
        return len(self.series["rss"])

    @property
    def growth(self) -> float:
        """Bytes per step in main memory; 0 before there are enough steps."""
        return max(self._trend("rss")[0], self._trend("held")[0])

    def step(self, label: str = "") -> None:
        """A step has ended. `label` names it in the report, should it hold the peak."""
        for name, value in self._measure().items():
            self.series[name].append(value)
        self._note_peak(label or f"step {self.steps}")
        if power_of_two(self.steps - WARMUP):
            self._look()

    def report(self) -> Report:
        """What was measured, up to now or to the end of the `with` block."""
        if not self._stop.is_set():
            self._finish()
        enough = self.steps >= WARMUP + FEWEST
        grows = enough and any(map(self._grows, NOISE))
        return Report(
            steps=self.steps,
            seconds=self._seconds or time.monotonic() - self._started,
            start=self.start,
            end=self.end,
            peak=self.peak,
            peak_at=self.peak_at,
            growth=self.growth,
            device_peak=self.device_peak,
            device_growth=self._trend("device")[0] if self.series["device"] else None,
            traced_growth=self._trend("traced")[0] if self.series["traced"] else None,
            verdict="grows" if grows else "steady" if enough else "unknown",
            suspects=tuple(suspects(self.looks)) if grows else (),
        )

    def _measure(self) -> dict[str, int]:
        """Bytes in use now, by way of measuring, less what the monitor itself has kept."""
        now = {"rss": self._tree.rss(), "held": held(), "device": self._device()}
        if tracemalloc.is_tracing():
            now["traced"] = tracemalloc.get_traced_memory()[0]
        self._high = max(self._high, now["rss"] or 0)
        return {name: value - self._own[name] for name, value in now.items() if value is not None}

    def _device(self) -> int | None:
        found = self.usage()
        if found is None:
            return None
        self.device_peak = max(self.device_peak or 0, int(getattr(found, "peak", found)))
        return int(getattr(found, "now", found))

    def _grows(self, name: str) -> bool:
        """Whether the slope is above what is allowed, adds up to more than noise, and is still there at the end."""
        slope, lowest = self._trend(name)
        if lowest <= 0 or slope <= self.allowed:
            return False
        added = slope * (self.steps - self._first())
        left = self._last[name] - self.series[name][self._first()]
        return min(added, 2 * left) > NOISE[name]

    def _trend(self, name: str) -> tuple[float, float]:
        values = self.series[name]
        return theil_sen(values[self._first() :]) if len(values) == self.steps else (0.0, 0.0)

    def _first(self) -> int:
        return max(WARMUP, self.steps // 5)

    def _note_peak(self, label: str) -> None:
        if self._high > self.peak:
            self.peak, self.peak_at = self._high, label
        self._high = 0

    def _sample(self) -> None:
        while not self._stop.wait(self.interval):
            self._high = max(self._high, self._tree.rss())

    def _look(self) -> None:
        """Count what there is. What the counts themselves take is left out of the figures."""
        gc.collect()
        before, high = self._measure(), self._high
        self.looks.append(look(self.steps))
        for name, now in self._measure().items():
            self._own[name] += max(0, now - before[name]) if name != "device" else 0
        self._high = high

    def _finish(self) -> None:
        """The last count; what lies in cycles is collected first, for it is garbage and no growth."""
        self._look()
        self._last = self._measure()
        self._note_peak("after the last step")
        self.end = self._tree.rss()


class Tree:
    """This process and its children, which are looked up once a second."""

    def __init__(self) -> None:
        self.process = psutil.Process()
        self.children: list[psutil.Process] = []
        self.looked = -math.inf

    def rss(self) -> int:
        """Bytes of memory in use."""
        now = time.monotonic()
        if now - self.looked > 1:
            self.looked = now
            with suppress(psutil.Error):
                self.children = self.process.children(recursive=True)
        total = int(self.process.memory_info().rss)
        for child in self.children:
            with suppress(psutil.Error):
                total += int(child.memory_info().rss)
        return total


class Heap(ctypes.Structure):
    """glibc's `struct mallinfo2`, mallinfo(3)."""

    _fields_: ClassVar = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()  # noqa: SIM905
    ]


def held() -> int | None:
    """Bytes that the program holds of the C library's heap, large mapped blocks included; None where nobody tells."""
    if MALLINFO is None:
        return None
    heap = MALLINFO()
    return int(heap.uordblks) + int(heap.hblkhd)


MALLINFO = getattr(ctypes.CDLL(None), "mallinfo2", None)
if MALLINFO is not None:
    MALLINFO.restype = Heap


def cuda() -> int | None:
    """Bytes of torch's tensors on CUDA devices, if the program has loaded torch and uses one; it is not loaded here."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "cuda") or not torch.cuda.is_initialized():
        return None
    return sum(int(torch.cuda.memory_allocated(index)) for index in range(torch.cuda.device_count()))


def theil_sen(values: Sequence[int]) -> tuple[float, float]:
    """(slope per step, its lower 99% bound); zeros where there are too few values."""
    if len(values) < FEWEST:
        return 0.0, 0.0
    stride = -(-len(values) // MOST)
    points = list(enumerate(values))[::stride]
    slopes = sorted((y - x) / (j - i) for (i, x), (j, y) in combinations(points, 2))
    n = len(points)
    spread = Z * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    return statistics.median(slopes), slopes[max(0, math.floor((len(slopes) - spread) / 2))]


def power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0
