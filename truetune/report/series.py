"""Arithmetic of curves: smoothing, levels, and fewer points that look the same."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Array = NDArray[np.float64]


def smooth(values: Array, window: int) -> Array:
    """The mean of the `window` values around each [N] -> [N]; fewer at the ends, NaNs left out."""
    half, known = window // 2, np.isfinite(values)
    total = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    count = np.concatenate([[0], np.cumsum(known)])
    last = np.minimum(np.arange(len(values)) + half + 1, len(values))
    first = np.maximum(np.arange(len(values)) - half, 0)
    mean: Array = (total[last] - total[first]) / np.maximum(count[last] - count[first], 1)
    return mean


def levels(values: Array, parts: int) -> list[float]:
    """The mean of each of `parts` stretches of equal length."""
    return [float(part.mean()) for part in np.array_split(values, parts) if len(part)]


def thin(values: Array, most: int) -> NDArray[np.int64]:
    """Indices, in order, of at most `most` values that keep every peak: lowest and highest of each stretch."""
    if len(values) <= most:
        return np.arange(len(values))
    kept: set[int] = {0, len(values) - 1}
    for stretch in np.array_split(np.arange(len(values)), most // 2 - 1):
        part = np.nan_to_num(values[stretch])
        kept |= {int(stretch[part.argmin()]), int(stretch[part.argmax()])}
    return np.array(sorted(kept), dtype=np.int64)


def spikes(values: Array, window: int = 20, sigmas: float = 6.0, least: float = 0.5) -> NDArray[np.bool_]:
    """Values [N] that stand out above those before them -> [N].

    Above the median of the `window` values before by `sigmas` robust deviations, 1.4826 × the median absolute
    deviation (Rousseeuw & Croux, 1993), and by `least` at any rate. The first `window` values are never spikes.
    """
    found = np.zeros(len(values), dtype=bool)
    if len(values) > window:
        before = sliding_window_view(values[:-1], window)
        middle = np.median(before, axis=1)
        deviation = 1.4826 * np.median(np.abs(before - middle[:, None]), axis=1)
        found[window:] = values[window:] - middle > np.maximum(sigmas * deviation, least)
    return found
