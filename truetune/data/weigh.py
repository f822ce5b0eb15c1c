"""Sources with weights: how often each epoch sees a training row, as `data.weights` says of the entry it comes from.

2 = twice, 0.5 = half of the rows once, 1.5 = all of them once and half of them once more. Which rows a half holds is
told by the seed and their content, so a row stays on its side when files are moved or put in another order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from truetune.data.dedupe import Survey
from truetune.data.sources import Source

Index = NDArray[np.int64]
ROW, PART = 3, 4
"""Columns of an index (see `cache.COLUMNS`)."""


def weighed(index: Index, survey: Survey, sources: Sequence[Source], seed: int) -> Index:
    """The index with the entries of every training row as often as its source's weight says, in their order.

    Of n rows of a weight w, floor(w) * n + round((w - floor(w)) * n) are seen, and at least one.
    """
    if all(source.weight == 1 for source in sources):
        return index
    rows = np.unique(index[index[:, PART] == 0, ROW])
    if not len(rows):
        return index
    times = _times(rows, survey, sources, seed)
    often = np.where(index[:, PART] == 0, times[np.searchsorted(rows, index[:, ROW]).clip(max=len(rows) - 1)], 1)
    return np.repeat(index, often, axis=0)


def _times(rows: Index, survey: Survey, sources: Sequence[Source], seed: int) -> Index:
    """How often each of the rows is seen."""
    weights = {source.name: source.weight for source in sources}
    starts = np.array([start for start, _ in survey.files])
    places = np.searchsorted(starts, rows, side="right") - 1
    times = np.zeros(len(rows), np.int64)
    for place, (_, name) in enumerate(survey.files):
        members = np.flatnonzero(places == place)
        whole, rest = divmod(weights.get(name, 1.0), 1)
        more = max(round(rest * len(members)), 0 if whole else 1)
        times[members] = int(whole)
        times[members[np.argsort(_mixed(survey.own[rows[members]], seed), kind="stable")[:more]]] += 1
    return times


def _mixed(keys: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """Numbers in an order that the seed decides (the finaliser of SplitMix64; Steele, Lea and Flood, OOPSLA 2014)."""
    mixed = keys + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))
