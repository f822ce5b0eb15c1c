"""Rated answers that have nothing to be told apart from: ratings of one side, or answers to one question."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from truetune.data.rows import Content, Conversation, Rated

ADVICE = {
    "data.one_sided": "Add rows of the other side; or train on the good answers alone, as conversations.",
    "data.one_prompt": "Add rows that ask other things.",
}
"""What to do about each finding."""


@dataclass
class Ratings:
    """What was found of the rows that are trained."""

    sides: set[bool] = field(default_factory=set)
    prompts: set[bytes] = field(default_factory=set)
    """What is asked, until there are two of them."""
    rows: int = 0

    def see(self, content: Content) -> None:
        if not isinstance(content, Rated):
            return
        self.rows += 1
        self.sides.add(content.desirable)
        if len(self.prompts) < 2:
            self.prompts.add(Conversation(content.conversation.turns[:-1]).digest)

    def findings(self) -> Iterator[tuple[str, str]]:
        """Codes with messages. KTO compares good with bad, and each answer with one to another question."""
        if len(self.sides) == 1:
            this, other = ("good", "bad") if self.sides == {True} else ("bad", "good")
            yield "data.one_sided", f"all answers are rated {this}: there is no {other} one to tell them apart from"
        if self.rows > 1 and len(self.prompts) == 1:
            yield "data.one_prompt", "all rows ask the same, and KTO compares with answers to other questions"
