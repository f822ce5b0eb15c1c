"""What is watched while a run goes on: does it learn, does the loss jump."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from statistics import fmean, pstdev

from truetune.engines.base import TrainEngine
from truetune.errors import TrainingError
from truetune.runs.metrics import Row

LOOK = 10
"""Steps after which something must have been learned; and in a row that may have a gradient of zero."""
WINDOW = 20
"""Steps that say what loss is usual."""
SKIPS = 5
"""Steps in a row that are no number, after which a run that skips them stops."""
DEVIATIONS, TIMES = 6.0, 1.5
"""A loss is a jump where it is so many standard deviations above the usual one, and so many times as high."""


class Guards:
    """Of one run, from the rows of the steps that its log holds already."""

    def __init__(self, where: str, rows: Iterable[Row] = ()) -> None:
        self.where = where
        self.losses: deque[float] = deque(maxlen=WINDOW)
        self.still, self.moved = 0, False
        for row in rows:
            if row.get("loss") is not None and row.get("grad_norm") is not None:
                self.losses.append(float(row["loss"]))
                self.count(float(row["grad_norm"]))

    def count(self, grad_norm: float) -> None:
        """`still` is how many of the last steps had a gradient of zero."""
        self.still = 0 if grad_norm else self.still + 1

    def learning(self, step: int, grad_norm: float, engine: TrainEngine) -> None:
        """Raises TrainingError `train.nothing_learned` where `LOOK` gradients in a row are zero, or where by then
        nothing that is trained has moved."""
        self.count(grad_norm)
        if self.still >= LOOK:
            raise self.nothing(f"every gradient of the last {LOOK} steps was zero")
        if step >= LOOK and not self.moved:
            self.moved = bool(engine.changed()[0])
            if not self.moved:
                raise self.nothing(f"after {step} steps no trained tensor differs from its start")

    def nothing(self, why: str) -> TrainingError:
        return TrainingError(
            f"nothing is being learned: {why}",
            code="train.nothing_learned",
            where=self.where,
            hint="Look at `ft receipt show`: are tokens supervised, is training.learning_rate above zero?",
        )

    def jump(self, loss: float) -> float | None:
        """The usual loss, where this one is far above it; else None."""
        usual = None
        if len(self.losses) == WINDOW:
            mean = fmean(self.losses)
            if loss > max(mean + DEVIATIONS * pstdev(self.losses), TIMES * mean):
                usual = mean
        self.losses.append(loss)
        return usual
