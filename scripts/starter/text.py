"""The training text: an endless, seeded stream of conversations and plain passages."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from knowledge import KNOWLEDGE
from support import dialogue, order
from tasks import TASKS, Turn
from words import sentence

SYSTEMS = [
    "You are a helpful assistant.",
    "You are a friendly assistant.",
    "Answer the question.",
    "Answer in short sentences.",
    "You help people with simple tasks.",
    "Below is an instruction that describes a task. Write a response that completes the request.",
]


def plain(rng: Random) -> str:
    return " ".join(sentence(rng) for _ in range(rng.randint(2, 6)))


def document(rng: Random) -> list[Turn] | str:
    """One conversation (a list of (role, text)) or plain text: a third support, the rest tasks and general English."""
    roll = rng.random()
    if roll < 0.04:
        return plain(rng)
    if roll < 0.32:
        return dialogue(rng)
    if roll < 0.36:
        return order(rng)
    turns = rng.choice(TASKS if roll < 0.66 else KNOWLEDGE)(rng)
    if rng.random() < 0.15:
        return [("system", rng.choice(SYSTEMS)), *turns]
    return turns


def documents(seed: int) -> Iterator[list[Turn] | str]:
    """The same seed gives the same stream."""
    rng = Random(seed)
    while True:
        yield document(rng)


def chat(turns: list[Turn]) -> str:
    """ChatML, as in chat_template.jinja."""
    return "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns)
