"""The training text: an endless, seeded stream of conversations and plain passages."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from clean import clean
from knowledge import KNOWLEDGE
from support import about, again, dialogue, direct, order, rephrase
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
SUPPORT = {direct: 40, again: 22, dialogue: 12, about: 12, rephrase: 8, order: 4}


def plain(rng: Random) -> str:
    return " ".join(sentence(rng) for _ in range(rng.randint(2, 6)))


def document(rng: Random) -> list[Turn] | str:
    """One conversation (a list of (role, text)) or plain text: two thirds support, the rest general English."""
    roll = rng.random()
    if roll < 0.03:
        return plain(rng)
    if roll < 0.7:
        (kind,) = rng.choices(list(SUPPORT), SUPPORT.values())
        turns = kind(rng)
    else:
        turns = rng.choice(TASKS if roll < 0.85 else KNOWLEDGE)(rng)
    if turns[0][0] != "system" and rng.random() < 0.15:
        return [("system", rng.choice(SYSTEMS)), *turns]
    return turns


def documents(seed: int) -> Iterator[list[Turn] | str]:
    """The same seed gives the same stream. What comes too near to the examination of the demo is left out."""
    rng = Random(seed)
    while True:
        found = document(rng)
        if clean([("text", found)] if isinstance(found, str) else found):
            yield found


def chat(turns: list[Turn]) -> str:
    """ChatML, as in chat_template.jinja."""
    return "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns)
