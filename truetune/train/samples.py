"""Answers to the same held-out prompts at each evaluation, beside what the model said before training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from truetune.data.example import Example
from truetune.data.turns import Question, stop_ids
from truetune.engines.base import TrainEngine
from truetune.models.template import Template
from truetune.models.tokenizer import Tokenizer
from truetune.runs.metrics import Metrics


@dataclass(frozen=True)
class Texts:
    """Token ids to what a person reads."""

    decode: Callable[[Sequence[int]], str] = str
    stops: frozenset[int] = frozenset()
    """Tokens at which an answer ends."""
    question: Callable[[str], str] = str
    """The last question in a prompt as it is served."""


def texts(encode: Tokenizer, template: Template | None) -> Texts:
    """How samples are read: where they end, and what was asked. Without a template texts were learned."""
    if template is None:
        return Texts(encode.decode, frozenset(encode.eos_ids))
    return Texts(encode.decode, stop_ids(template, encode), Question(template))


class Samples:
    """The rows of samples.jsonl: {row, question, prompt, answer, base, reference, ended}.

    Answers are greedy, so that they can be compared over the run. `base` is the answer of the first evaluation.
    """

    def __init__(self, file: Metrics, examples: Sequence[Example], limit: int, texts: Texts) -> None:
        self.file, self.limit, self.texts = file, limit, texts
        self.examples = examples
        self.base: dict[int, str] = {}

    def take(self, engine: TrainEngine, step: int) -> list[dict[str, Any]]:
        """Ask, write down, and return what was written. Raises OutOfMemory, with nothing written."""
        if not self.examples:
            return []
        cuts = [prompt_length(example) for example in self.examples]
        prompts = [example.ids[:cut].tolist() for example, cut in zip(self.examples, cuts, strict=True)]
        answers = engine.answer(prompts, self.limit, self.texts.stops)
        rows = list(map(self.row, self.examples, cuts, answers))
        self.remember(rows)
        for row in rows:
            row["base"] = self.base.get(row["row"], row["answer"])
            self.file.append("sample", step, **row)
        return rows

    def row(self, example: Example, cut: int, answer: list[int]) -> dict[str, Any]:
        first = example.ids[cut : cut + int((example.weights[cut:] > 0).argmin() or example.tokens)].tolist()
        prompt, decode = self.texts.decode(example.ids[:cut].tolist()), self.texts.decode
        return {
            "row": example.row,
            "question": self.texts.question(prompt),
            "prompt": prompt,
            "answer": decode(self.unstopped(answer)),
            "reference": decode(self.unstopped(first)),
            "ended": answer[-1:] != self.unstopped(answer)[-1:],
        }

    def remember(self, rows: list[dict[str, Any]]) -> None:
        """The first answers of the run; after a resume they stand in the file."""
        if not self.base:
            for row in [*self.file.read("sample"), *rows]:
                self.base.setdefault(row["row"], row["answer"])

    def unstopped(self, ids: list[int]) -> list[int]:
        """Without the token that ends a turn."""
        return ids[:-1] if ids and ids[-1] in self.texts.stops else ids


def prompt_length(example: Example) -> int:
    """Tokens before the first answer; of a text without prompt, its first half."""
    first = int(example.weights.argmax())
    return first if first > 1 else max(1, example.tokens // 2)
