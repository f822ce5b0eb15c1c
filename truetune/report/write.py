"""Write a run's report: `finetune_report.md`, `finetune_report.html`, and the curves in `report/`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from truetune.report.gather import Figures, gather
from truetune.report.html import html
from truetune.report.markdown import markdown
from truetune.report.page import page
from truetune.runs import durable
from truetune.runs.run import Run

try:
    from truetune.report import plots
except ImportError:  # matplotlib, the extra `report`, is not installed
    plots = None  # type: ignore[assignment]

FOLDER = "report"


def write(run: Run) -> Path:
    """The report of a run in whatever state it is; returns the path of the Markdown.

    Raises InputError where the run's resolved.json cannot be read, ResourceError where the disk takes no more.
    """
    figures = gather(run)
    told, drawn = page(figures), drawings(figures)
    pictures = [(plot.title, f"{FOLDER}/{plot.name}.png", plot.alt) for plot in drawn]
    vectors = [(plot.title, plots.inline(plot), plot.alt, plot.wide) for plot in drawn]
    keep(run.folder / FOLDER, drawn)
    durable.write(run.folder / "finetune_report.html", html(told, vectors).encode("utf-8"))
    path = run.folder / "finetune_report.md"
    durable.write(path, markdown(told, pictures).encode("utf-8"))
    return path


def drawings(figures: Figures) -> Sequence[plots.Plot]:
    return plots.draw(figures) if plots else ()


def keep(folder: Path, drawn: Sequence[plots.Plot]) -> None:
    """The curves as files, those of an earlier report replaced."""

    def fill(aside: Path) -> None:
        for plot in drawn:
            (aside / f"{plot.name}.png").write_bytes(plot.png)
            (aside / f"{plot.name}.svg").write_bytes(plot.svg)

    if drawn:
        durable.place(folder, fill, replace=True)
    else:
        durable.remove(folder)
