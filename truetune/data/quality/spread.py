"""How long rows are: percentiles and histograms of a stream in constant memory, and what lies far outside."""

from __future__ import annotations

import bisect
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from truetune.data.fit import Fitted
from truetune.data.quality import limits
from truetune.data.quality.kinds import KINDS, Finding
from truetune.data.quality.said import Said, excerpt
from truetune.data.render import Rendered

EXACT = 4096
"""Lengths below are counted one by one, those above in steps of 2 %."""
STEPS = 32
"""Per doubling."""
BARS = 24
"""Bars of a histogram, about."""


@dataclass
class Histogram:
    """Counts of whole numbers from 0 on."""

    counts: Counter[int] = field(default_factory=Counter)
    """By the smallest number of their step."""
    rows: int = 0
    sum: int = 0
    most: int = 0

    def add(self, number: int) -> None:
        self.counts[number if number < EXACT else _floor(number)] += 1
        self.rows += 1
        self.sum += number
        self.most = max(self.most, number)

    def at(self, *shares: float) -> list[int]:
        """The numbers below or at which these shares of the rows lie, in rising order."""
        found: list[int] = []
        below = 0
        for number, count in sorted(self.counts.items()):
            below += count
            while len(found) < len(shares) and below >= shares[len(found)] * self.rows:
                found.append(number)
        return found

    def figures(self) -> dict[str, Any]:
        """JSON-ready. `bins` are [from, to, rows]; the last one is open where few rows are much longer."""
        middle, high, far = self.at(0.5, 0.95, 0.99)
        spread = {"min": min(self.counts), "median": middle, "p95": high, "p99": far, "max": self.most}
        return {"rows": self.rows, "mean": round(self.sum / self.rows, 1), **spread, "bins": self._bins(far)}

    def _bins(self, far: int) -> list[list[int]]:
        end = self.most if self.most <= 2 * far else far
        step = max(1, rounded(end / BARS))
        bars = [[start, start + step, 0] for start in range(0, end + 1, step)]
        for number, count in self.counts.items():
            bars[min(number // step, len(bars) - 1)][2] += count
        bars[-1][1] = max(bars[-1][1], self.most + 1)
        return bars


@dataclass
class Extremes:
    """The answers that are shortest and longest against all others, each with its place."""

    histogram: Histogram = field(default_factory=Histogram)
    short: list[tuple[int, str, str]] = field(default_factory=list)
    long: list[tuple[int, str, str]] = field(default_factory=list)
    """Length, place and excerpt of the outermost; of the long ones the length is negative."""

    def add(self, text: str, where: str) -> None:
        self.histogram.add(len(text))
        _keep(self.short, len(text), where, text)
        _keep(self.long, -len(text), where, text)

    def findings(self) -> Iterator[Finding]:
        """Beyond Tukey's outer fences of the logarithms."""
        if self.histogram.rows < limits.ENOUGH:
            return
        first, middle, third = (max(1, number) for number in self.histogram.at(0.25, 0.5, 0.75))
        reach = limits.FENCE * max(limits.OCTAVE, math.log2(third / first))
        short, long = first / 2**reach, third * 2**reach
        beside = f"half of all have more than {middle:,}"
        yield from self._beyond("data.short_answer", self.short, short, f"at most {short:,.0f} characters, {beside}")
        yield from self._beyond("data.long_answer", self.long, -long, f"at least {long:,.0f} characters, {beside}")

    def _beyond(self, code: str, kept: list[tuple[int, str, str]], fence: float, said: str) -> Iterator[Finding]:
        named = [(where, text) for length, where, text in kept if length <= fence]
        if not named:
            return
        side = (number if fence > 0 else -number for number in self.histogram.counts.elements())
        count = max(len(named), sum(number <= fence for number in side))
        examples = [text for _, text in named[: limits.EXAMPLES]]
        message = f"{KINDS[code].message}: {said}"
        yield KINDS[code].found(count, count / self.histogram.rows, [at for at, _ in named], examples, message)


@dataclass
class Lengths:
    """Tokens of the prompts, of what is learned, and of both, for each example; characters of the answers."""

    prompt: Histogram = field(default_factory=Histogram)
    answer: Histogram = field(default_factory=Histogram)
    total: Histogram = field(default_factory=Histogram)
    extremes: Extremes = field(default_factory=Extremes)

    def see(self, where: str, said: Said, rendered: Rendered, fitted: Fitted) -> None:
        for part in rendered.parts:
            self.total.add(len(part.ids))
            if said.asked:
                self.answer.add(part.supervised)
                self.prompt.add(len(part.ids) - part.supervised)
        for answer in said.answers:
            self.extremes.add(answer, where)

    def findings(self) -> Iterator[Finding]:
        yield from self.extremes.findings()

    def figures(self) -> dict[str, Any]:
        named = {"prompt": self.prompt, "answer": self.answer, "total": self.total}
        return {"lengths": {name: each.figures() for name, each in named.items() if each.rows}}


def _keep(kept: list[tuple[int, str, str]], length: int, where: str, text: str) -> None:
    if len(kept) < limits.PLACES or length < kept[-1][0]:
        bisect.insort(kept, (length, where, excerpt(text)), key=lambda item: item[0])
        del kept[limits.PLACES :]


def _floor(number: int) -> int:
    """The start of the step that a large number lies in."""
    return int(2 ** (math.floor(math.log2(number) * STEPS) / STEPS))


def rounded(width: float) -> int:
    """A round number not below `width`: 1, 2, 5, 10, …"""
    scale = 10 ** math.floor(math.log10(max(1.0, width)))
    return int(next(scale * digit for digit in (1, 2, 5, 10) if scale * digit >= width))
