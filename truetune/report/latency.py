"""A picture of benchmarks: for each model the waiting time for a first token, that between tokens, and tokens/s."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from truetune.report.plots import HELD, SPEED, STYLE, TRAIN

WIDTH, ROW, HEAD, FOOT, NAMES = 9.0, 0.34, 0.42, 0.36, 0.21
"""Inches: the picture, a model's row, above and below them; names have this share of the width."""
COLUMNS = (
    ("first_token", "first token, ms", TRAIN),
    ("between_tokens", "between tokens, ms", HELD),
    ("tokens_per_second", "tokens/s", SPEED),
)


def png(results: Sequence[Mapping[str, Any]]) -> bytes:
    """Models of one result by their names; of several, the results' names before them. Times: the median as a bar,
    and a line to the 95th percentile."""
    several = len(results) > 1
    rows = [
        (f"{result['name']}  {model['name']}" if several else model["name"], model)
        for result in results
        for model in result["models"]
    ][::-1]
    with matplotlib.rc_context(STYLE):
        height = HEAD + FOOT + ROW * len(rows)
        drawing = Figure(figsize=(WIDTH, height))
        names = min(0.5, max(NAMES, 0.0105 * max(len(name) for name, _ in rows)))
        width = (1 - names - 0.02) / len(COLUMNS)
        for place, column in enumerate(COLUMNS):
            box = (names + place * width, FOOT / height, width - 0.035, 1 - (HEAD + FOOT) / height)
            _column(drawing.add_axes(box), column, [model for _, model in rows])
        axes = drawing.axes[0]
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
        page = io.BytesIO()
        drawing.savefig(page, format="png", dpi=160, facecolor="white", metadata={"Software": None})
    return page.getvalue()


def _column(axes: Axes, column: tuple[str, str, str], models: Sequence[Mapping[str, Any]]) -> None:
    name, title, color = column
    for place, model in enumerate(models):
        value = model[name]
        if value is None:
            continue
        middle, far = (value["p50"] * 1e3, value["p95"] * 1e3) if isinstance(value, Mapping) else (value, None)
        axes.barh(place, middle, 0.56, color=color, alpha=0.85)
        if far is not None:
            axes.plot((middle, far), (place, place), color=color, linewidth=1.4, marker="|", markevery=[1])
        axes.annotate(f"{middle:,.0f}" if middle >= 10 else f"{middle:.1f}", (0, place), xytext=(4, 0), va="center",
                      textcoords="offset points", fontsize=8, color="white" if middle else color)  # fmt: skip
    axes.set_title(title, loc="left", fontsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, pad=5)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_yticks([])
    axes.set_ylim(-0.6, len(models) - 0.4)
    axes.set_xlim(left=0)
