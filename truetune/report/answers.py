"""Sample answers side by side: what the model said before the training, and what it says now.

Of a training on texts the question is the beginning of one, and the answers are how it goes on.
"""

from __future__ import annotations

from dataclasses import dataclass

from truetune.report.gather import Figures


@dataclass(frozen=True)
class Answer:
    """A held-out question, answered before training and at `step`; `reference` is the answer of its row."""

    step: int
    row: int
    question: str
    before: str
    after: str
    reference: str
    ended: bool
    """Whether the answer came to its end by itself."""
    exact: bool
    """Whether it is the answer of its row, word for word."""


def answers(figures: Figures) -> list[Answer]:
    """The samples of the step that is the result; of the last one where that has none."""
    steps = {row["step"] for row in figures.samples}
    wanted = figures.of("train", "result_step") or (figures.result[0] if figures.result else None)
    chosen = wanted if wanted in steps else max(steps, default=None)
    first = min(steps, default=0)
    before = {row["row"]: row["answer"] for row in figures.samples if row["step"] == first}
    return [
        Answer(
            step=row["step"],
            row=row["row"],
            question=row.get("question") or row["prompt"],
            before=row.get("base", before.get(row["row"], "")),
            after=row["answer"],
            reference=row["reference"],
            ended=bool(row["ended"]),
            exact=not figures.pretraining and row["answer"].split() == row["reference"].split(),
        )
        for row in figures.samples
        if row["step"] == chosen
    ]
