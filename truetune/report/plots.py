"""The curves of a run. matplotlib's Figure and nothing of its global state: no backend, no window, no pyplot.

The same drawing becomes a PNG beside the Markdown and an SVG inside the HTML page, whose colours are variables of the
page, so that they follow its light and its dark.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from truetune.report import series
from truetune.report.gather import Figures
from truetune.report.words import figure, thousands, written

INK, LINE = "#566172", "#e3e7ed"
TRAIN, HELD, RATE, SPEED, NORM = "#4a4ddb", "#c2570c", "#0f8a7e", "#0e7cc2", "#a63d8f"
VARIABLES = {INK: "muted", LINE: "line", TRAIN: "train", HELD: "held", RATE: "rate", SPEED: "speed", NORM: "norm"}
"""Colours of the print, and the variables of the page that stand for them. Lightness tells them apart as well, and
held-out points have a shape of their own."""
POINTS = 900
"""Most points of a line: as many as it has pixels."""
STYLE: Any = {
    "svg.fonttype": "none",
    "font.size": 9.0,
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": LINE,
    "legend.frameon": False,
    "axes.unicode_minus": True,
}


@dataclass(frozen=True)
class Plot:
    """A drawing of a run: its name in files, its title, and in words what it shows."""

    name: str
    title: str
    alt: str
    png: bytes
    svg: bytes
    wide: bool = False


def draw(figures: Figures) -> list[Plot]:
    """The curves that the run has figures for."""
    with matplotlib.rc_context(STYLE):
        drawn = [_loss(figures), *(_line(figures, *row) for row in LINES)]
    return [plot for plot in drawn if plot]


def _loss(figures: Figures) -> Plot | None:
    if not len(figures.losses) and not figures.held_out:
        return None
    drawing, axes = _axes(7.6, 3.0, head=0.32)
    _frame(axes, [*_train(axes, figures), *_held_out(axes, figures)])
    for row in figures.rows("resume"):
        axes.axvline(row["step"], color=INK, linewidth=0.8, linestyle=(0, (1, 3)))
        axes.annotate("resumed", (row["step"], 1), xycoords=("data", "axes fraction"), xytext=(3, -9), fontsize=7.5,
                      textcoords="offset points")  # fmt: skip
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, handlelength=1.4, borderaxespad=0)
    return _plot("loss", "Loss, step by step", drawing, _told(figures), wide=True)


def _frame(axes: Axes, values: list[float]) -> None:
    """What the axis shows: from zero, but where the curve would then be a line far above it; never so little that
    noise looks like a course."""
    high = max(values)
    low = min(*values, 0.8 * high)
    room = (high - low) * 0.08
    axes.set_ylim(0 if low < high / 3 else low - room, high + (room or 1))


def _train(axes: Axes, figures: Figures) -> list[float]:
    """The training loss: each step light, their course strong. Returns what the axis must hold."""
    losses, steps = figures.losses, figures.column("step")
    if not len(losses):
        return []
    kept = series.thin(losses, POINTS)
    axes.plot(steps[kept], losses[kept], color=TRAIN, alpha=0.3, linewidth=0.9)
    course = series.smooth(losses, max(5, len(losses) // 15))
    kept = series.thin(course, POINTS)
    axes.plot(steps[kept], course[kept], color=TRAIN, linewidth=1.8, label="training")
    return [float(course.min()), float(course.max()), *np.percentile(losses, [1, 99]).tolist()]


def _held_out(axes: Axes, figures: Figures) -> list[float]:
    points = figures.held_out
    if not points:
        return []
    steps, losses = zip(*points, strict=True)
    axes.plot(steps, losses, color=HELD, linewidth=1.2, marker="o", markersize=4.2, label="held-out rows", zorder=4,
              clip_on=False)  # fmt: skip
    if figures.best:
        step, loss = figures.best
        axes.plot(
            step,
            loss,
            color=HELD,
            marker="o",
            markersize=10,
            fillstyle="none",
            linewidth=0,
            label=f"best, {figure(loss)}",
            zorder=5,
        )
    return list(losses)


def _told(figures: Figures) -> str:
    parts = []
    if len(figures.losses):
        parts.append(f"Training loss from {figure(figures.losses[0])} to {figure(figures.losses[-1])}")
    if figures.base and figures.best:
        step, loss = figures.best
        parts.append(f"held-out loss from {figure(figures.base)} to {figure(loss)} at step {step:,}, its best")
    return "; ".join(parts) + "."


def _rate(value: float, _: object = None) -> str:
    return written(value).replace("-", "−")


def _count(value: float, _: object = None) -> str:
    return thousands(value)


def _norm(value: float, _: object = None) -> str:
    return thousands(value) if value >= 1000 else f"{value:.3g}"


LINES: tuple[tuple[str, str, str, Callable[..., str], bool], ...] = (
    ("lr", "Learning rate", RATE, _rate, False),
    ("tokens_per_second", "Tokens per second", SPEED, _count, True),
    ("grad_norm", "Gradient norm", NORM, _norm, True),
    ("reward_margin", "Reward margin", TRAIN, _norm, True),
    ("reward_accuracy", "Share told apart", HELD, _norm, True),
)
"""Figure of a step, its title, its colour, how its axis is written, whether it is noisy."""


def _line(figures: Figures, name: str, title: str, color: str, write: Callable[..., str], noisy: bool) -> Plot | None:
    values, steps = figures.column(name), figures.column("step")
    known = np.isfinite(values)
    values, steps = values[known], steps[known]
    if not len(values):
        return None
    drawing, axes = _axes(3.0, 1.7)
    kept = series.thin(values, POINTS)
    axes.plot(steps[kept], values[kept], color=color, alpha=0.3 if noisy else 1, linewidth=0.9 if noisy else 1.8)
    if noisy:
        axes.plot(steps, series.smooth(values, max(3, len(values) // 12)), color=color, linewidth=1.6)
    axes.yaxis.set_major_formatter(FuncFormatter(write))
    most = float(np.percentile(values, 99) if noisy else values.max()) * 1.12
    axes.set_ylim(min(0.0, float(values.min())), max(most, 0.0) or 1)
    low, high = write(float(values.min())), write(float(values.max()))
    return _plot(name, title, drawing, f"{title}: between {low} and {high}.")


def _axes(width: float, height: float, head: float = 0.08) -> tuple[Figure, Axes]:
    """An empty drawing, in inches, with room at its head: horizontal grid, no box."""
    left, right, bottom, top = 0.56 / width, 1 - 0.1 / width, 0.3 / height, 1 - head / height
    drawing = Figure(figsize=(width, height))  # a layout engine would draw everything twice
    axes = drawing.add_axes((left, bottom, right - left, top - bottom))
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="y", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, pad=5)
    axes.xaxis.set_major_locator(MaxNLocator(6 if width > 5 else 3, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5 if width > 5 else 3))
    axes.margins(x=0.015)
    return drawing, axes


def _plot(name: str, title: str, drawing: Figure, alt: str, *, wide: bool = False) -> Plot:
    png, svg = io.BytesIO(), io.BytesIO()
    drawing.savefig(png, format="png", dpi=160, facecolor="white", metadata={"Software": None})
    with matplotlib.rc_context({"svg.hashsalt": name}):
        drawing.savefig(svg, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return Plot(name, title, alt, png.getvalue(), svg.getvalue(), wide)


def inline(plot: Plot) -> str:
    """The SVG as a part of a page: no header, names of its own, the page's colours."""
    text = plot.svg.decode("utf-8")
    text = re.sub(r"<(metadata|style).*?</\1>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{plot.name}-", text)
    for color, name in VARIABLES.items():
        text = text.replace(color, f"var(--{name})")
    return text.replace("<svg ", '<svg aria-hidden="true" ', 1)
