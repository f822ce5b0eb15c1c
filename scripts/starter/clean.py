"""What must not stand in the training text: the questions that measure the demo, or questions nearly the same, and its
answers. The starter may know how customers ask; what the demo teaches and how it is examined it must not have seen.
"""

from __future__ import annotations

import re

from truetune import demo

NEAR = 0.6
ASKED = demo.kept_out()


def words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[\w'$%]+", text.casefold()))


EXAMINED = [words(paraphrase.question) for paraphrase in ASKED]


def near(question: str) -> bool:
    """Whether a question shares at least 60 % of its words (Jaccard index) with one that measures the demo."""
    found = words(question)
    return any(len(found & other) >= NEAR * len(found | other) for other in EXAMINED)


def tells(text: str) -> bool:
    """Whether a text contains all that a right answer to one of those questions has to contain."""
    return any(demo.states(text, paraphrase.must) for paraphrase in ASKED)


def clean(turns: list[tuple[str, str]]) -> bool:
    """Whether a conversation may be trained on."""
    return not any(tells(text) or (role == "user" and near(text)) for role, text in turns)
