"""The topics of `topics.txt`: how customers ask, and what shops answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import grammar
from grammar import Node
from words import cap

TELL = "<tell> "
OPENERS = ["Hello! ", "Hi, ", "Good morning. ", "Excuse me, ", "Hey, ", "Quick question: ", "Please help me. ",
           "Hello, ", "Good evening, ", "Sorry, one question: ",
           "Hi there! ", "I have a question. ", "Dear team, ",
           "Just asking: ", "One more thing: ", "Also, ", "So ", "Okay, ", "Maybe you can help: ",
           "Good day, "]  # fmt: skip
CLOSERS = [" Thanks!", " Thank you.", " Please help.", " Thanks in advance.", " Please.", " Cheers", " Can you help?"]


@dataclass
class Topic:
    """One intent: many ways to ask, a few ways to answer."""

    name: str
    questions: list[list[Node]] = field(default_factory=list)
    answers: list[list[Node]] = field(default_factory=list)

    def ask(self, rng: Random, values: Mapping[str, str]) -> str:
        """A question, as somebody types it."""
        return styled(rng, cap(grammar.fill(grammar.expand(rng, rng.choice(self.questions)), values)))

    def answer(self, rng: Random, values: Mapping[str, str]) -> str:
        return cap(grammar.fill(grammar.expand(rng, rng.choice(self.answers)), values))


def load(path: Path) -> list[Topic]:
    topics: list[Topic] = []
    for line in path.read_text("utf-8").splitlines():
        if line.startswith("["):
            topics.append(Topic(line.strip("[]")))
        elif line.startswith(">"):
            topics[-1].answers.append(grammar.parse(line[1:].strip()))
        elif line.startswith("~"):
            topics[-1].questions.append(grammar.parse(f"{TELL}{line[1:].strip()}?"))
        elif not line.startswith("#"):
            topics[-1].questions.append(grammar.parse(line))
    return topics


TOPICS = load(Path(__file__).with_name("topics.txt"))


def styled(rng: Random, question: str) -> str:
    """With a greeting or thanks, without capitals or the mark at its end, now and then with a slip of a finger."""
    if rng.random() < 0.2:
        opener = rng.choice(OPENERS)
        question = opener + (question if opener.rstrip()[-1] in ".!" else lower(question))
    if rng.random() < 0.08:
        question += rng.choice(CLOSERS)
    if rng.random() < 0.3:
        question = question.lower()
    if rng.random() < 0.3:
        question = question.rstrip("?.!")
    return slip(rng, question) if rng.random() < 0.04 else question


def lower(text: str) -> str:
    return text if text.startswith(("I ", "I'", "TV")) else text[:1].lower() + text[1:]


def slip(rng: Random, text: str) -> str:
    """Two neighbouring letters change places."""
    at = rng.randrange(max(1, len(text) - 1))
    return text[:at] + text[at + 1 : at + 2] + text[at] + text[at + 2 :]
