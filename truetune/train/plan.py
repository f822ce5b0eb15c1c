"""How a run goes, as pure functions: how many steps, the learning rate at each, what is due after each."""

from __future__ import annotations

import math
from dataclasses import dataclass

from truetune.config import Amount, Cadence
from truetune.data.steps import Steps


@dataclass(frozen=True)
class Course:
    """The course of a run, known before it starts."""

    order: Steps
    total: int
    learning_rate: float
    scheduler: str
    warmup: int

    def lr(self, step: int) -> float:
        """Learning rate of step 0, 1, 2, …, as transformers' `get_scheduler` gives it: up from 0 over the warm-up,
        then down to 0 by the scheduler."""
        if step < self.warmup:
            return self.learning_rate * step / max(1, self.warmup)
        progress = (step - self.warmup) / max(1, self.total - self.warmup)
        if self.scheduler == "cosine":
            return self.learning_rate * max(0.0, 0.5 * (1 + math.cos(math.pi * progress)))
        if self.scheduler == "linear":
            return self.learning_rate * max(0.0, 1 - progress)
        return self.learning_rate

    def epoch(self, step: int) -> float:
        """Epochs done after `step` steps."""
        return step / self.order.per_epoch


def course(
    order: Steps,
    *,
    epochs: float,
    max_steps: int | None,
    learning_rate: float,
    scheduler: str,
    warmup: Amount,
) -> Course:
    """Steps of `epochs` passes, rounded up, at most `max_steps`; the warm-up is a part of these.

    A run of a single step has no warm-up: its learning rate would be 0.
    """
    total = math.ceil(round(epochs * order.per_epoch, 9))
    total = max(1, total if max_steps is None else min(total, max_steps))
    return Course(order, total, learning_rate, scheduler, warmup.of(total) if total > 1 else 0)


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
