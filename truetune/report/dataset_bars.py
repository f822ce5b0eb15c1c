"""Histograms as SVG that needs no library: the page's colours, a name on every bar, and a line where rows are cut."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from truetune.data.quality.spread import rounded
from truetune.report.words import thousands

WIDTH, HEIGHT = 800, 210
LEFT, RIGHT, TOP, BOTTOM = 44, 8, 22, 24
"""Room around the bars: numbers to the left and below, the names of the marks above."""
TICKS = 8
GRID = 4


@dataclass(frozen=True)
class Chart:
    """`alt` says in words what is drawn."""

    title: str
    svg: Markup
    alt: str
    wide: bool


@dataclass(frozen=True)
class Frame:
    """From numbers to places in the drawing, for bins of one width."""

    end: int
    """The right edge of the last bin as if it were not open."""
    most: int
    width: int
    height: int

    def x(self, number: float) -> float:
        return round(LEFT + (self.width - LEFT - RIGHT) * number / self.end, 1)

    def y(self, count: float) -> float:
        return round(self.height - BOTTOM - (self.height - TOP - BOTTOM) * count / self.most, 1)


def lengths(figures: dict[str, Any], max_length: int, documents: bool = False) -> list[Chart]:
    """A wide one of whole examples, small ones of what is read and what is learned. `documents` beyond `max_length`
    are learned in several parts."""
    drawn = []
    if total := figures.get("total"):
        drawn.append(
            histogram("Tokens per document" if documents else "Tokens per example", total, max_length, True, documents)
        )
    for name, title in (("prompt", "Tokens that are read (prompts)"), ("answer", "Tokens that are learned (answers)")):
        if name in figures:
            drawn.append(histogram(title, figures[name], 0, False))
    return drawn


def histogram(title: str, figures: dict[str, Any], max_length: int, wide: bool, parted: bool = False) -> Chart:
    """`figures` as `Histogram.figures` gives them: `bins` of [from, to, rows], the last one open."""
    bins = figures["bins"]
    step = bins[0][1] - bins[0][0]
    frame = Frame(bins[-1][0] + step, max(1, *(rows for _, _, rows in bins)), WIDTH if wide else 390, HEIGHT)
    parts = [*_grid(frame), *_bars(frame, bins, step, 0 if parted else max_length), *_axis(frame, bins, step, wide)]
    if wide:
        parts += _marks(frame, figures, max_length)
    svg = Markup('<svg viewBox="0 0 {} {}" aria-hidden="true">{}</svg>').format(
        frame.width, frame.height, Markup("").join(parts)
    )
    middle, high, most = (f"{figures[name]:,}" for name in ("median", "p95", "max"))
    alt = f"Half have at most {middle} tokens, 95 % at most {high}, the longest {most}."
    if parted and max_length < figures["max"]:
        alt += " Those beyond max_length are learned in several parts."
    if max_length >= frame.end:
        alt += f" All are below max_length, which is {max_length:,}."
    return Chart(title, svg, alt, wide)


def _grid(frame: Frame) -> Iterator[Markup]:
    step = rounded(frame.most / GRID)
    for count in range(0, frame.most + 1, step):
        y = frame.y(count)
        yield Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(LEFT, frame.width - RIGHT, y, y)
        yield _text(LEFT - 8, y + 4, thousands(count) if count else "0", "end")


def _bars(frame: Frame, bins: list[list[int]], step: int, max_length: int) -> Iterator[Markup]:
    for start, stop, rows in bins:
        if not rows:
            continue
        left, right, top = frame.x(start), frame.x(start + step), frame.y(rows)
        kind = "over" if max_length and start >= max_length else "bar"
        yield Markup(
            '<rect class="{}" x="{}" y="{}" width="{}" height="{}" rx="1.5"><title>{}</title></rect>'
        ).format(
            kind, left + 0.75, min(top, frame.y(0) - 1.5), max(1, round(right - left - 1.5, 1)),
            max(1.5, round(frame.y(0) - top, 1)), f"{start:,} to {stop - 1:,} tokens: {rows:,} rows",
        )  # fmt: skip


def _axis(frame: Frame, bins: list[list[int]], step: int, wide: bool) -> Iterator[Markup]:
    every = max(step, rounded(frame.end / (TICKS if wide else TICKS / 2)))
    for number in range(0, frame.end + 1, every):
        yield _text(frame.x(number), frame.height - 6, f"{number:,}", "middle" if number < frame.end else "end")
    if bins[-1][1] > frame.end:
        yield _text(frame.width - RIGHT, frame.y(bins[-1][2]) - 5, f"up to {bins[-1][1] - 1:,}", "end")


def _marks(frame: Frame, figures: dict[str, Any], max_length: int) -> Iterator[Markup]:
    """The middle of the rows, and where they end by `max_length`."""
    marks = [(figures["median"], "median", "mark")]
    if max_length and max_length <= frame.end:
        marks.append((max_length, f"max_length {max_length:,}", "limit"))
    for number, name, kind in marks:
        x = frame.x(number)
        yield Markup('<line class="{}" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(kind, x, x, TOP - 6, frame.y(0))
        near = x > frame.width - 120
        yield _text(x - 5 if near else x + 5, TOP - 8, name, "end" if near else "start", kind)


def _text(x: float, y: float, text: str, anchor: str, kind: str = "") -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="{}" class="{}">{}</text>').format(x, y, anchor, kind, text)
