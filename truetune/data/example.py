"""What crosses from the data to an engine: token ids and a weight per token."""

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
    """

    ids: NDArray[np.int32]
    weights: NDArray[np.float32]
    row: int

    @property
    def tokens(self) -> int:
        return len(self.ids)

    @property
    def supervised(self) -> int:
        """Number of tokens that reach the loss."""
        return int(np.count_nonzero(self.weights))
