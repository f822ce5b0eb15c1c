"""Requests to a shop, by what is wanted: made by rule from lists of words, not collected from people.

In half of them one thing is wanted and another one is not, so that it matters which word stands where.
"""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Iterator

# fmt: off
THINGS = ("kettle", "rain coat", "desk lamp", "pair of boots", "blender", "garden hose", "backpack", "wool blanket",
          "phone case", "tea set", "camping stove", "office chair", "yoga mat", "wall clock", "bread knife", "tent",
          "bicycle pump", "radio", "picture frame", "toolbox", "water bottle", "hair dryer", "suitcase", "rug")
WHEN = ("last week", "on Monday", "two days ago", "in May", "yesterday", "before the holidays", "a month ago", "online",
        "in your shop", "for my sister", "as a present", "at the sale", "on Friday", "this morning", "in March")
ENDS = ("Thanks!", "Please reply soon.", "Is that possible?", "Kind regards, Ann", "Best, Tom", "Let me know.", "",
        "I am waiting for your answer.", "It is urgent.", "No hurry.", "What do I have to do?", "Cheers, Lea")
# fmt: on
STARTS = ("Hello,", "Hi there,", "Good morning,", "Dear team,", "", "Hey,", "To whom it may concern:")
WANTS = {
    "refund": ("my money back", "a refund", "the price returned to my card", "to be paid back"),
    "exchange": ("another size", "an exchange", "a different colour", "it swapped for a new one"),
    "repair": ("it repaired", "it fixed", "somebody to mend it", "a repair"),
    "cancel": ("to cancel the order", "the order stopped", "the purchase called off", "a cancellation"),
}
PLAIN = (
    "about the {thing} that I bought {when}: I want {this}.",
    "I bought a {thing} {when} and would now like {this}.",
    "my order was a {thing} {when}. What I need is {this}.",
)
TURNED = (
    "about the {thing} that I bought {when}: I want {this}, not {that}.",
    "I bought a {thing} {when}. I do not want {that}, I want {this}.",
    "instead of {that} I would rather have {this} for the {thing} that came {when}.",
    "you offered me {that} for the {thing} from {when}, but I asked for {this}.",
)


def requests(count: int, seed: int) -> Iterator[tuple[str, str]]:
    """(text, intent), the intents in turn."""
    draw = random.Random(seed)
    for number in range(count):
        intent = list(WANTS)[number % len(WANTS)]
        other = draw.choice([name for name in WANTS if name != intent])
        words = {"this": draw.choice(WANTS[intent]), "that": draw.choice(WANTS[other])}
        words |= {"thing": draw.choice(THINGS), "when": draw.choice(WHEN)}
        body = draw.choice(TURNED if draw.random() < 0.5 else PLAIN).format(**words)
        yield " ".join(filter(None, (draw.choice(STARTS), body, draw.choice(ENDS)))), intent


def table(rows: Iterator[tuple[str, str]]) -> str:
    """As a CSV file."""
    made = io.StringIO()
    writer = csv.writer(made)
    writer.writerow(("text", "label"))
    writer.writerows(rows)
    return made.getvalue()
