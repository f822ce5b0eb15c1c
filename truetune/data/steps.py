"""Which examples a step takes: a seeded order per epoch, a pure function of (seed, epoch)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Steps:
    """`examples` rows in a new order each epoch, `batch` of them per step; an epoch's last step takes what is left."""

    examples: int
    batch: int
    seed: int

    @property
    def per_epoch(self) -> int:
        return -(-self.examples // self.batch)

    def indices(self, step: int) -> NDArray[np.int64]:
        """Examples of step 0, 1, 2, …"""
        epoch, position = divmod(step, self.per_epoch)
        start = position * self.batch
        return order(self.examples, self.seed, epoch)[start : start + self.batch]

    def first(self, steps: int) -> tuple[int, NDArray[np.int64]]:
        """What the first `steps` steps take: all examples so many times, and these once more."""
        epochs, rest = divmod(steps, self.per_epoch)
        return epochs, order(self.examples, self.seed, epochs)[: rest * self.batch]


@lru_cache(maxsize=2)
def order(examples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The permutation of an epoch (PCG64, seeded by both numbers). Read-only: it is shared."""
    permutation = np.random.default_rng([seed, epoch]).permutation(examples)
    permutation.flags.writeable = False
    return permutation
