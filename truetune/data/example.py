"""What crosses from the data to an engine: token ids with a weight per token, and a label."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Example:
    """One training example.

    ids      int32 [T]    token ids
    weights  float32 [T]  weight of the loss of predicting ids[t] from ids[:t]; 0 = not trained. weights[0] is
                          always 0: nothing predicts the first token
    row      int          index of the input row it came from
    second   int          where its second text begins, 0 = it is one text. Of a preference pair the better answer
                          stands first, each behind the prompt; a labelled pair is read together
    label    (int, …)     indices of the row's classes; (1,) for a good answer and (0,) for a bad one (KTO)
    """

    ids: NDArray[np.int32]
    weights: NDArray[np.float32]
    row: int
    second: int = 0
    label: tuple[int, ...] = ()
    reference: tuple[float, ...] = ()
    """Σ weight · log p of each text under the model before training, where the objective compares with it."""
    contrast: Example | None = None
    """Its prompt with the answer of another row (KTO)."""

    @property
    def tokens(self) -> int:
        return len(self.ids)

    @property
    def texts(self) -> tuple[slice, ...]:
        """Where each of its texts stands in ids and weights."""
        if self.second and not self.label:
            return slice(0, self.second), slice(self.second, len(self.ids))
        return (slice(0, len(self.ids)),)

    @property
    def supervised(self) -> int:
        """Number of tokens that reach the loss; where none does, its label does, which counts as one."""
        return int(np.count_nonzero(self.weights)) or 1
