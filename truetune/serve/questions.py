"""What a benchmark asks: the rows that a run held out, rows or lines of a file, or a few questions of our own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from truetune.data.example import Example
from truetune.errors import InputError
from truetune.evaluate import material
from truetune.evaluate.material import Item
from truetune.evaluate.subject import Subject

OWN = (
    "What can you help me with?",
    "Explain in two sentences why the sky is blue.",
    "Write a short letter that thanks a neighbour for watering the plants.",
    "List five things to take along on a day in the mountains.",
    "What is the difference between weather and climate?",
    "Give me a recipe for a simple vegetable soup.",
    "Summarise in one sentence what a fine-tuned language model is.",
    "Which is heavier, a kilogram of feathers or a kilogram of iron, and why?",
)
"""Asked where there are no rows: they measure speed, and nothing about quality."""
BEGINNING = 32
"""Tokens of a text that is gone on with: at most half of it."""


@dataclass(frozen=True)
class Question:
    """A message, or for a model of texts the ids of a beginning. Rows have a reference and examples for the loss."""

    text: str = ""
    ids: tuple[int, ...] = ()
    history: tuple[dict[str, str], ...] = ()
    """The turns before the message."""
    reference: str | None = None
    examples: Sequence[Example] = ()


@dataclass(frozen=True)
class Questions:
    source: str
    asked: Sequence[Question]


def gather(subject: Subject, file: str | None, count: int) -> Questions:
    """At most `count` questions. A `.txt` file has one in each line; any other file has rows, as `ft evaluate` reads
    them.

    Raises InputError `benchmark.no_prompts`, and what `evaluate.material.gather` raises.
    """
    if file is not None and Path(file).suffix == ".txt":
        return Questions(file, [Question(line) for line in lines(Path(file))[:count]])
    if file is None and (subject.run is None or not subject.trained):
        return Questions("built in", [Question(text) for text in OWN[:count]])
    rows = material.gather(subject, [file] if file else [], count)
    name = file or f"rows that {subject.name} held out"
    return Questions(name, [question(item) for item in rows.items])


def lines(path: Path) -> list[str]:
    """The lines of a file that say something. Raises InputError."""
    try:
        found = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"the prompts can't be read ({getattr(error, 'strerror', None) or 'it is no UTF-8 text'})",
            code="benchmark.no_prompts",
            where=str(path),
            hint="Name a text file with a prompt in each line, or a file with rows.",
        ) from None
    if not found:
        raise InputError(
            "there is no prompt in it",
            code="benchmark.no_prompts",
            where=str(path),
            hint="Write one in each line.",
        )
    return found


def question(item: Item) -> Question:
    if item.messages:
        *before, last = ({"role": str(turn["role"]), "content": str(turn["content"])} for turn in item.messages)
        return Question(last["content"], (), tuple(before), item.reference, item.examples)
    ids = np.concatenate([example.ids for example in item.examples])
    return Question(
        ids=tuple(int(each) for each in ids[: max(1, min(BEGINNING, len(ids) // 2))]), examples=item.examples
    )
