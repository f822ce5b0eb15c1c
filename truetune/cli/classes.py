"""What `ft evaluate` shows of a model that gives scores: its figures, each class, and what was taken for what."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from truetune.cli import visible
from truetune.cli.common import Output

MOST = 12
"""Classes of which a matrix is shown; the document has all."""
LONG = 24
"""Characters of a class's name that are shown."""

Table = Callable[[dict[str, Any], bool], Iterable[tuple[Any, ...]]]
"""The rows of figures: base, tuned, change, verdict."""


def show(out: Output, result: dict[str, Any], table: Table) -> None:
    figures = result["figures"]
    if "classes" not in result:
        lines = [(figures[name]["title"], said(figures[name]["tuned"])) for name in result["order"]]
        out.table(("", "scores"), lines)
        return
    out.table(("", "commonest class", "tuned", "change", ""), list(table(figures, True)))
    out.print()
    out.table(("class", "rows", "found", "precision", "recall", "F1"), list(map(each, result["classes"])))
    if result["confusion"] and len(result["classes"]) <= MOST:
        names = [name(one) for one in result["classes"]]
        out.print("\nwhat holds (down) and what it was taken for (across)", style="dim")
        out.table(("", *names), list(matrix(names, result["confusion"])))


def each(one: dict[str, Any]) -> tuple[str, ...]:
    return (name(one), f"{one['rows']:,}", f"{one['found']:,}", *(percent(one[key]) for key in SHARES))


SHARES = ("precision", "recall", "f1")


def percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}".replace("%", " %")


def name(one: dict[str, Any]) -> str:
    text = visible(one["name"])
    return text if len(text) <= LONG else text[: LONG - 1] + "…"


def matrix(names: list[str], counts: list[list[int]]) -> Iterator[tuple[str, ...]]:
    for of, row in zip(names, counts, strict=True):
        yield (of, *(f"{count:,}" if count else "·" for count in row))


def said(figure: dict[str, float | None]) -> str:
    """A value with half of its interval."""
    value, low, high = figure["value"], figure["low"], figure["high"]
    if value is None:
        return "–"
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} ±{(high - low) / 2:.3f}"
