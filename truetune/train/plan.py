"""How a run goes, as pure functions: how many steps, the learning rate at each, what is due after each."""

from __future__ import annotations

import math
from dataclasses import dataclass

from truetune.config import Amount, Cadence
from truetune.data.steps import Steps

DECAY = 0.2
"""Share of a `wsd` run in which the learning rate falls; Hägele et al. 2024 find more to bring nothing."""
RISE, START, END = 0.3, 25.0, 1e4
"""`one_cycle`: the share of the steps in which it rises, from 1/25 of the highest; it ends at 1/10,000 of that."""


@dataclass(frozen=True)
class Rules:
    """What happens besides steps."""

    evaluate: Cadence | None
    save: Cadence | None
    keep: int = 3
    best: bool = True
    samples: int = 0
    """Held-out prompts that are answered at each evaluation."""
    sample_tokens: int = 64
    """Longest of these answers."""
    patience: int | None = None
    min_delta: float = 0.0
    skip: bool = False
    """Whether a step that is no number is left out, instead of ending the run."""


@dataclass(frozen=True)
class Course:
    """The course of a run, known before it starts."""

    order: Steps
    total: int
    learning_rate: float
    scheduler: str
    warmup: int
    floor: float = 0.0
    """Where the learning rate ends, as a share of `learning_rate`."""

    def lr(self, step: int) -> float:
        """Learning rate of step 0, 1, 2, …, as transformers' schedules give it: up from 0 over the warm-up, then down
        to the floor by the scheduler; `one_cycle` as torch's `OneCycleLR`."""
        if self.scheduler == "one_cycle":
            return self.learning_rate * one_cycle(step, self.total)
        if step < self.warmup:
            return self.learning_rate * step / max(1, self.warmup)
        done, after = step - self.warmup, self.total - self.warmup
        return self.learning_rate * (self.floor + (1 - self.floor) * FALLS[self.scheduler](done, max(1, after)))

    def epoch(self, step: int) -> float:
        """Epochs done after `step` steps."""
        return step / self.order.per_epoch


def cosine(done: int, after: int) -> float:
    """Half a wave (Loshchilov & Hutter 2017). Here as below: `done` of `after` steps -> 1, then less, at last 0."""
    return wave(done / after)


def linear(done: int, after: int) -> float:
    return max(0.0, 1 - done / after)


def constant(done: int, after: int) -> float:
    return 1.0


def polynomial(done: int, after: int) -> float:
    """The square of what is left."""
    return linear(done, after) ** 2


def wsd(done: int, after: int) -> float:
    """Stable, then down (Hu et al. 2024, arXiv 2404.06395), as 1 − √ of the share of the decay that is behind (Hägele
    et al. 2024, arXiv 2405.18392)."""
    decay = max(1, round(after * DECAY))
    behind = max(0, done - (after - decay)) / decay
    return max(0.0, 1 - math.sqrt(behind))


FALLS = {"cosine": cosine, "linear": linear, "constant": constant, "polynomial": polynomial, "wsd": wsd}


def one_cycle(step: int, total: int) -> float:
    """Up and down in two half waves (Smith 2018, arXiv 1803.09820); the momentum stays as it is. 1 at the peak."""
    peak, last = max(1.0, RISE * total - 1), total - 1
    if step <= peak:
        return 1 + (1 / START - 1) * wave(step / peak)
    lowest = 1 / START / END
    return lowest + (1 - lowest) * wave((step - peak) / max(1.0, last - peak))


def wave(share: float) -> float:
    """Half a wave from 1 down to 0 over a share of 0 to 1."""
    return 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


def course(
    order: Steps,
    *,
    epochs: float,
    max_steps: int | None,
    learning_rate: float,
    scheduler: str,
    warmup: Amount,
    floor: float = 0.0,
) -> Course:
    """Steps of `epochs` passes, rounded up, at most `max_steps`; the warm-up is a part of these.

    A run of a single step has no warm-up: its learning rate would be 0. `one_cycle` has its own.
    """
    total = math.ceil(round(epochs * order.per_epoch, 9))
    total = max(1, total if max_steps is None else min(total, max_steps))
    rising = 0 if total == 1 or scheduler == "one_cycle" else warmup.of(total)
    return Course(order, total, learning_rate, scheduler, rising, floor)


@dataclass
class Due:
    """Says when something that happens every so often is due. `last` is the time of the last one, in seconds."""

    every: Cadence | None
    per_epoch: int
    last: float = 0.0

    def __call__(self, step: int, now: float) -> bool:
        """Is it due after `step` steps (1, 2, …) at time `now`?"""
        if self.every is None:
            return False
        if self.every.unit == "minutes":
            due = now - self.last >= self.every.count * 60
            self.last = now if due else self.last
            return due
        size = self.every.count * (self.per_epoch if self.every.unit == "epochs" else 1)
        return math.floor(step / size + 1e-9) > math.floor((step - 1) / size + 1e-9)
