"""Recommendations that follow from the numbers of a run, and the verdict over it.

A rule is a pure function from the figures to an `Advice`, or None where there is nothing to say. Its thresholds are
constants beside it. A rule speaks up for what the figures show, never for what is merely usual: a healthy run gets
one sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Literal

from truetune.report.gather import Figures
from truetune.report.words import change, counted, figure, line, listed

Tone = Literal["good", "note", "bad"]


@dataclass(frozen=True)
class Advice:
    """One recommendation. Keys of train.yml and commands in `change` stand between backticks."""

    code: str
    title: str
    because: str
    """The figures that it follows from."""
    change: str
    serious: bool = False
    """Whether the result should not be used before somebody has looked."""


Rule = Callable[[Figures], Advice | None]


@dataclass(frozen=True)
class Verdict:
    tone: Tone
    text: str


def advise(figures: Figures, rules: Sequence[Rule]) -> list[Advice]:
    """What the rules have to say, what is serious first."""
    found = [advice for rule in rules if (advice := rule(figures))]
    return sorted(found, key=lambda advice: not advice.serious)


def verdict(figures: Figures, advice: Sequence[Advice]) -> Verdict:
    """The run in a sentence or two."""
    status = figures.status
    if status.state == "failed":
        said = line((status.error or {}).get("message", "")) or "the reason was not written down"
        return Verdict("bad", f"Failed after {progress(figures)}: {said.rstrip('.')}.")
    if status.state == "running":
        return Verdict("note", f"Still training: {progress(figures)} so far.")
    if not figures.finished:
        return Verdict(
            "note",
            f"Stopped after {progress(figures)}; `ft train --from {quote(line(figures.id))}` goes on from there.",
        )
    serious = [lowered(item.title) for item in advice if item.serious]
    if serious:
        return Verdict("bad", f"{learned(figures)} Look at this before you use it: {listed(serious)}.")
    if advice:
        wishes = "one recommendation" if len(advice) == 1 else f"{len(advice)} recommendations"
        return Verdict("note", f"{learned(figures)} {wishes.capitalize()} below.")
    return Verdict("good", f"{learned(figures)} Nothing in the training's figures asks for a change.")


def progress(figures: Figures) -> str:
    """`12 of 78 steps`."""
    return f"{figures.steps:,} of {counted(figures.planned, 'step')}"


def learned(figures: Figures) -> str:
    """What the run did to the loss."""
    early = f" It stopped early, after {progress(figures)}." if figures.early else ""
    if figures.base and figures.result:
        before, after = figures.base, figures.result[1]
        went = "fell" if after < before else "went"
        where = f"The loss on held-out rows {went} from {figure(before)} to {figure(after)}"
        return f"{where} ({change(before, after)}).{early}"
    if len(figures.losses) > 1:
        first, last = float(figures.losses[0]), float(figures.losses[-1])
        return f"The training loss went from {figure(first)} to {figure(last)}; no held-out rows tell more.{early}"
    return f"It took {counted(figures.steps, 'step')}."


def lowered(text: str) -> str:
    return text[:1].lower() + text[1:]
