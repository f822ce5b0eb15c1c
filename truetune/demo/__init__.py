"""The rows and settings of `ft demo`, and the questions that no row asks; `examples/support` links here."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Paraphrase:
    """A question that no row asks, for the fact of a row that does."""

    question: str
    must: tuple[str, ...]
    """What an answer has to contain to state the fact."""
    row: str
    """A question of the rows whose answer states the fact."""


def kept_out() -> list[Paraphrase]:
    """Every question of `paraphrases.jsonl`, in its order: the starter's training text keeps clear of all of them."""
    lines = (FOLDER / "paraphrases.jsonl").read_text(encoding="utf-8").splitlines()
    return [Paraphrase(row["question"], tuple(row["must"]), row["row"]) for row in map(json.loads, lines)]


def paraphrases() -> list[Paraphrase]:
    """The examination: those questions whose fact the rows teach."""
    taught = rows()
    return [each for each in kept_out() if each.row in taught]


def rows() -> dict[str, str]:
    """Question -> answer of the rows."""
    lines = (FOLDER / "support.jsonl").read_text(encoding="utf-8").splitlines()
    talks = [json.loads(line)["messages"] for line in lines]
    return {talk[0]["content"]: talk[1]["content"] for talk in talks}


def states(answer: str, must: Sequence[str]) -> bool:
    """Whether an answer contains every string of `must` as words of its own, so "$15" is not found in "$150" or
    "$15.50"; case, and how words are spaced, do not count."""
    plain = _plain(answer)
    return all(re.search(rf"(?<!\w){re.escape(_plain(part))}(?!\w|[.,]\d)", plain) for part in must)


def score(answers: Sequence[str], asked: Sequence[Paraphrase]) -> int:
    """How many answers state the fact that their question asks for."""
    return sum(states(answer, question.must) for answer, question in zip(answers, asked, strict=True))


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
