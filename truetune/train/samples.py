"""Answers to the same held-out prompts at each evaluation, beside what the model said before training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from truetune.data.example import Example
from truetune.engines.base import TrainEngine
from truetune.runs.metrics import Metrics
from truetune.train.reading import Reader


class Samples:
    """The rows of samples.jsonl: {row, question, prompt, answer, base, reference, ended}.

    Where texts are learned, `question` is the beginning of one, `answer` how the model goes on with it, `reference`
    how the text does. Answers are greedy, so that they can be compared over the run. `base` is the answer of the first
    evaluation.
    """

    def __init__(self, file: Metrics, examples: Sequence[Example], limit: int, reader: Reader) -> None:
        self.file, self.limit, self.reader = file, limit, reader
        self.examples = examples
        self.base: dict[int, str] = {}

    def take(self, engine: TrainEngine, step: int) -> list[dict[str, Any]]:
        """Ask, write down, and return what was written. Raises OutOfMemory, with nothing written."""
        if not self.examples:
            return []
        prompts = [self.reader.prompt(example) for example in self.examples]
        answers = engine.answer(prompts, self.limit, self.reader.stops)
        rows = list(map(self.row, self.examples, prompts, answers))
        self.remember(rows)
        for row in rows:
            row["base"] = self.base.get(row["row"], row["answer"])
            self.file.append("sample", step, **row)
        return rows

    def row(self, example: Example, prompt: list[int], answer: list[int]) -> dict[str, Any]:
        return {
            "row": example.row,
            "question": self.reader.asked(prompt),
            "prompt": self.reader.decode(prompt),
            "answer": self.reader.said(answer),
            "reference": self.reader.reference(example, len(prompt), self.limit),
            "ended": self.reader.ended(answer),
        }

    def remember(self, rows: list[dict[str, Any]]) -> None:
        """The first answers of the run; after a resume they stand in the file."""
        if not self.base:
            for row in [*self.file.read("sample"), *rows]:
                self.base.setdefault(row["row"], row["answer"])


def chosen(examples: Sequence[Example], count: int) -> list[Example]:
    """The first example of each of the first `count` rows: a long text is many, and only one of them begins it."""
    found: dict[int, Example] = {}
    for place in range(len(examples)):
        if len(found) == count:
            break
        found.setdefault(examples[place].row, examples[place])
    return list(found.values())
