"""What is watched while a run goes on: does it learn, does the loss jump."""

from __future__ import annotations

from collections import deque
from statistics import fmean, pstdev

from truetune.engines.base import TrainEngine
from truetune.errors import TrainingError
from truetune.train.state import State

LOOK = 10
"""Steps after which something must have been learned."""
WINDOW = 20
"""Steps that say what loss is usual."""
SKIPS = 5
"""Steps in a row that are no number, after which a run that skips them stops."""
DEVIATIONS, TIMES = 6.0, 1.5
"""A loss is a jump where it is so many standard deviations above the usual one, and so many times as high."""


class Guards:
    """Of one run. What a resume has not seen it does not know: the usual loss is found anew."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.losses: deque[float] = deque(maxlen=WINDOW)

    def learning(self, state: State, engine: TrainEngine) -> None:
        """After `LOOK` steps: raises TrainingError `train.nothing_learned` where nothing that is trained has moved."""
        if state.step != LOOK:
            return
        still = "every gradient was zero" if not state.max_grad_norm else ""
        if not still and engine.changed()[0]:
            return
        raise TrainingError(
            f"nothing is being learned: after {LOOK} steps {still or 'no trained tensor differs from its start'}",
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
