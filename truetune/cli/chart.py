"""The loss over the steps, drawn with braille dots: two by four to a character."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

Point = tuple[float, float]
DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""Bits of a braille character by column and row."""
MARK = "●"


def curve(line: Sequence[Point], marks: Sequence[Point], *, width: int = 64, height: int = 8) -> list[str]:
    """Lines of text: `line` as a curve and `marks` as ●, over one pair of axes that begins at 0 below.

    Points are (x, y) with finite y; none where there is nothing to draw.
    """
    points = [*line, *marks]
    if len(line) < 2:
        return []
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    top = max(y for _, y in points) or 1.0
    cells = [[0] * width for _ in range(height)]
    for x, y in filled(line, (right - left) / (2 * width)):
        column, row = place(x, left, right, 2 * width), place(top - y, 0.0, top, 4 * height)
        cells[row // 4][column // 2] |= DOTS[column % 2][row % 4]
    rows = [[chr(0x2800 + cell) if cell else " " for cell in row] for row in cells]
    for x, y in marks:
        rows[place(top - y, 0.0, top, height)][place(x, left, right, width)] = MARK
    labels = [f"{top:.3g}", *[""] * (height - 2), "0"]
    drawn = [f"{label:>8} ┤{''.join(row)}".rstrip() for label, row in zip(labels, rows, strict=True)]
    return [*drawn, f"{'':9}└{'─' * width}", f"{'':10}{left:<{width // 2},.0f}{right:>{width - width // 2},.0f}"]


def filled(line: Sequence[Point], step: float) -> list[Point]:
    """The points, and between two that lie apart those of the straight line."""
    found = [line[0]]
    for (x0, y0), (x1, y1) in pairwise(line):
        count = max(1, round((x1 - x0) / step)) if step else 1
        found += [(x0 + (x1 - x0) * k / count, y0 + (y1 - y0) * k / count) for k in range(1, count + 1)]
    return found


def place(value: float, low: float, high: float, size: int) -> int:
    """Where a value stands among `size` places from low to high."""
    share = (value - low) / (high - low) if high > low else 0.0
    return min(size - 1, max(0, round(share * (size - 1))))
