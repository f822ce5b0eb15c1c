"""How far a figure may be trusted: 95 % intervals by a paired bootstrap over rows.

Rows are drawn with replacement, as many as there are; base and tuned are measured on the same draw, so that their
difference has an interval of its own, which is narrower than either's (Efron & Tibshirani 1993, percentile method;
Koehn 2004 for scores of texts). The draws are seeded: the same rows give the same intervals.

A share (exact match) has Wilson's score interval instead (Wilson 1927): where no row of twelve is right, no draw holds
a right one either, and yet the share of all such rows may well be a tenth. Its difference is drawn like the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from truetune.evaluate.metrics import Metric, Sums

RESAMPLES = 1000
LEVEL = 0.95
SEED = 0
FEWEST = 6
"""Rows below which there is no interval: five rows that all agree would still be chance in 1 of 16 cases."""
AT_ONCE = 4_000_000
"""Numbers of the table of draws that are held at a time."""

METHOD = {
    "method": "paired bootstrap over rows, percentiles; Wilson's score for shares",
    "level": LEVEL,
    "resamples": RESAMPLES,
    "seed": SEED,
}
Z = 1.959963984540054
"""Of the normal distribution, for LEVEL."""


def figure(metric: Metric, base: Sums | None, tuned: Sums | None) -> dict[str, Any]:
    """{base, tuned, difference}, each {value, low, high} or None, and the verdict.

    The sums are [rows, k]; the same rows in the same order on both sides.
    """
    sides = [side for side in (base, tuned) if side is not None]
    values = [float(metric.of(side.sum(0))) for side in sides]
    drawn = [metric.of(sums) for sums in resampled(sides)] if len(sides[0]) >= FEWEST else []
    found = [told(value, drawn[at] if drawn else None) for at, value in enumerate(values)]
    if metric.share:
        found = [wilson(side.sum(0)) if drawn else one for side, one in zip(sides, found, strict=True)]
    names = [name for name, side in (("base", base), ("tuned", tuned)) if side is not None]
    body: dict[str, Any] = {"base": None, "tuned": None, "difference": None} | dict(zip(names, found, strict=True))
    if len(sides) == 2:
        body["difference"] = told(values[1] - values[0], drawn[1] - drawn[0] if drawn else None)
        body["verdict"] = verdict(metric, body["difference"])
    return body


def wilson(sums: Sums) -> dict[str, float | None]:
    """A share with Wilson's interval: (hits, rows)."""
    hits, rows = map(float, sums)
    if not rows:
        return {"value": None, "low": None, "high": None}
    share, squared = hits / rows, Z**2 / rows
    middle = (share + squared / 2) / (1 + squared)
    half = Z / (1 + squared) * math.sqrt(share * (1 - share) / rows + squared / (4 * rows))
    return {"value": share, "low": max(0.0, middle - half), "high": min(1.0, middle + half)}


def resampled(sides: list[Sums]) -> list[Sums]:
    """Per side [RESAMPLES, k]: sums over draws of rows, the same draws for every side."""
    parts = [[draw @ side for side in sides] for draw in draws(len(sides[0]))]
    return [np.concatenate(side) for side in zip(*parts, strict=True)]


def draws(rows: int) -> Iterator[NDArray[np.float64]]:
    """How often each row is drawn, [some draws, rows] at a time."""
    random, left = np.random.default_rng(SEED), RESAMPLES
    while left:
        some = min(left, max(1, AT_ONCE // rows))
        yield random.multinomial(rows, np.full(rows, 1 / rows), size=some).astype(np.float64)
        left -= some


def told(value: float, drawn: NDArray[np.float64] | None) -> dict[str, float | None]:
    """A value with its interval; nothing where it is not a number."""
    low = high = None
    if drawn is not None and np.isfinite(value) and np.isfinite(drawn).any():
        tail = 50 * (1 - LEVEL)
        low, high = map(float, np.nanpercentile(drawn, [tail, 100 - tail]))
    return {"value": value if np.isfinite(value) else None, "low": low, "high": high}


def verdict(metric: Metric, difference: dict[str, float | None]) -> str:
    """`better`, `worse`, `same` (not one row differs), `unclear` (the interval holds 0), `few` (no interval).

    Of a metric that is good in neither direction: `higher` or `lower`.
    """
    value, low, high = difference["value"], difference["low"], difference["high"]
    if value is None or low is None or high is None:
        return "few"
    if low == high == 0:
        return "same"
    if low <= 0 <= high:
        return "unclear"
    way = "higher" if value > 0 else "lower"
    if not metric.better:
        return way
    return "better" if way == metric.better else "worse"
