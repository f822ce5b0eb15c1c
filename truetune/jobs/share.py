"""How much of each machine a replica gets."""

from __future__ import annotations

import math
from collections.abc import Sequence


def share(machines: Sequence[float], replicas: int) -> float:
    """The most cores (or GPUs) per replica with which all of them find a place: a whole number, or a part of one where
    there are more replicas than cores. `machines`: cores of each. 0 where there are none at all."""
    whole = [math.floor(cores) for cores in machines]
    for each in range(max(whole, default=0), 0, -1):
        if sum(cores // each for cores in whole) >= replicas:
            return float(each)
    return 1 / math.ceil(replicas / sum(whole)) if sum(whole) else 0.0
