"""What `ft evaluate` measured of a run, from the documents in its eval/ folder (see `evaluate.results`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from truetune.report.gather import Figures, at, number
from truetune.report.words import counted, line, listed

VERDICTS = {
    "better": "better",
    "worse": "worse",
    "same": "the same",
    "unclear": "no clear difference",
    "few": "too few rows to tell",
    "higher": "longer",
    "lower": "shorter",
}
SHARES = ("exact_match", "exact_match_strict", "ended", "accuracy")
"""Metrics that are shares of the rows."""


@dataclass(frozen=True)
class Score:
    """A metric of the base and of the result; ± is half of the 95 % interval."""

    title: str
    before: str
    after: str
    verdict: str


@dataclass(frozen=True)
class Scores:
    title: str
    rows: list[Score]


def scores(figures: Figures) -> list[Scores]:
    found = [Scores(titled(figures, body), list(measured(body))) for body in figures.scores.values()]
    return [item for item in found if item.rows]


def titled(figures: Figures, body: dict[str, Any]) -> str:
    """What was measured: `Step 78 on 8 held-out rows`, `Step 78 on 5 of 40 rows of test.jsonl, loss only`."""
    where = line(body.get("checkpoint") or "the result").replace("-", " ", 1)
    held_out = bool(at(body, "data.held_out"))
    rows = counted(int(at(body, "data.available", at(body, "data.rows", 0))), "held-out row" if held_out else "row")
    part = f"{at(body, 'data.rows', 0):,} of " if partial(body) else ""
    files = listed([line(entry.get("path", "")) for entry in at(body, "data.inputs", [])])
    named = "" if held_out or not files else f" of {files}"
    return ", ".join([f"{where[:1].upper()}{where[1:]} on {part}{rows}{named}", *answered(figures, body)])


def partial(body: dict[str, Any]) -> bool:
    return bool(at(body, "data.rows", 0) < at(body, "data.available", 0))


def answered(figures: Figures, body: dict[str, Any]) -> Iterator[str]:
    """How answers were drawn, where that was not the usual way. Of texts there are none."""
    if body.get("task") in ("text", "classification", "reward"):
        return
    if at(body, "settings.generate") is False:
        yield "loss only"
        return
    temperature, longest = at(body, "settings.temperature", 0), at(body, "settings.max_new_tokens")
    if temperature:
        yield f"answers drawn at temperature {temperature:g} (seed {at(body, 'settings.seed', 0)})"
    if longest and longest != figures.get("generation.max_new_tokens"):
        yield f"answers of at most {counted(longest, 'token')}"


def measured(body: dict[str, Any]) -> Iterator[Score]:
    for name in body.get("order", []):
        item = at(body, f"figures.{name}", {})
        if at(item, "tuned.value") is None:
            continue
        share = name in SHARES
        yield Score(
            line(item.get("title", name)),
            said(item.get("base"), share),
            said(item.get("tuned"), share),
            VERDICTS.get(item.get("verdict", ""), ""),
        )


def said(side: Any, share: bool) -> str:
    """`0.745 ±0.093`, `62% ±11`."""
    value, low, high = (at(side, name) for name in ("value", "low", "high"))
    if not number(value):
        return "–"
    scale, unit = (100, "%") if share else (1, "")
    text = f"{three(value * scale)}{unit}"
    if not number(low) or not number(high):
        return text
    return f"{text} ±{three((high - low) / 2 * scale)}{unit}"


def three(value: float) -> str:
    """Three digits that count, and no exponent for large numbers."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def worse(figures: Figures) -> list[str]:
    """Headline metrics in which the result is clearly worse than its base; other checkpoints do not count."""
    step = figures.of("train", "result_step")
    bodies = [body for body in figures.scores.values() if body.get("checkpoint") in ("result", f"step-{step}")]
    items = [item for body in bodies for item in (body.get("figures") or {}).values()]
    found = [line(item.get("title", "")) for item in items if item.get("headline") and item.get("verdict") == "worse"]
    return list(dict.fromkeys(found))
