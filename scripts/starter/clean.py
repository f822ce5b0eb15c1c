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
SIGNS = [(paraphrase.must[0].casefold(), paraphrase.must) for paraphrase in ASKED]
"""What a right answer has to contain, and the first of it for a quick look."""


def near(question: str) -> bool:
    """Whether a question shares at least 60 % of its words (Jaccard index) with one that measures the demo."""
    found = words(question)
    both = ((len(found & other), len(found) + len(other)) for other in EXAMINED)
    return any(shared >= NEAR * (count - shared) for shared, count in both)


def tells(text: str) -> bool:
    """Whether a text contains all that a right answer to one of those questions has to contain."""
    plain = " ".join(text.casefold().split())
    return any(sign in plain and demo.states(text, must) for sign, must in SIGNS)


def clean(turns: list[tuple[str, str]]) -> bool:
    """Whether a conversation may be trained on."""
    return not any(tells(text) or (role == "user" and near(text)) for role, text in turns)
