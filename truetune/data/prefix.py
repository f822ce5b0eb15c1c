"""Where the prompt ends among the ids of a longer text, without encoding the prompt again.

A tokenizer cuts a text at its control tokens before it does anything else, and encodes what lies between them piece by
piece. So up to a control token that stands in both, prompt and longer text have the same ids, and what is left of the
prompt is short and mostly the same in every row (`<|im_start|>assistant`). That rest is encoded from its control token
on, and counts only if the ids of the longer text go on with it: then they begin with the ids of the prompt.

A control token is found by counting: the third in the text is the third among the ids, where both have as many of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from truetune.models.tokenizer import Tokenizer

Ids = NDArray[np.int32]


class Prefix:
    """For the prompts of one template: most of them end with the same control token and the same words."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        added = tokenizer.backend.get_added_tokens_decoder()
        self._texts = [token.content for token in added.values()]
        self._ids = {token.content: number for number, token in added.items() if _cuts(token)}
        self._alone: dict[str, bool] = {}
        self._mark = ""

    def rest(self, prompt: str) -> str:
        """The prompt from a control token on, the last if it is the one that most prompts end with; else empty."""
        start = prompt.rfind(self._mark) if self._mark else -1
        if start < 0:
            start, self._mark = max(((prompt.rfind(mark), mark) for mark in self._ids), default=(-1, ""))
        return prompt[start:] if start >= 0 else ""

    def size(self, prompt: str, rest: Ids, text: str, ids: Ids) -> int | None:
        """How many tokens of a longer text are the prompt; None where that is not proven.

        `rest` are the ids of `self.rest(prompt)`, `ids` those of `text`, which begins with the prompt.
        """
        place = self.last(self._mark, prompt, text, ids)
        if place is None or not len(rest) or not begins(ids[place:], rest):
            return None
        return place + len(rest)

    def last(self, mark: str, begin: str, text: str, ids: Ids) -> int | None:
        """The place, among the ids of a text, of the last such token in what the text begins with; None where that is
        not proven: the token is no control token, or the text or its ids have it where the other does not."""
        if mark not in self._ids or not self._stands_alone(mark):
            return None
        places = np.flatnonzero(ids == self._ids[mark])
        number = begin.count(mark)
        return int(places[number - 1]) if 0 < number <= len(places) == text.count(mark) else None

    def _stands_alone(self, mark: str) -> bool:
        """Whether no other token can begin before it and end in it, or take it in, so that the text is cut at it."""
        if mark not in self._alone:
            self._alone[mark] = not any(_covers(text, mark) for text in self._texts)
        return self._alone[mark]


def begins(ids: Ids, start: Ids) -> bool:
    """Whether the first ids are these."""
    return ids[: len(start)].tobytes() == start.tobytes()


def _cuts(token: Any) -> bool:
    """Whether the text is cut exactly here, whatever stands around it."""
    return bool(token.special and not (token.normalized or token.lstrip or token.rstrip or token.single_word))


def _covers(text: str, mark: str) -> bool:
    """Whether both can stand in one text such that they overlap and `text` comes first or is longer."""
    ends = (text[start:] for start in range(1, len(text)))
    return (text != mark and text.startswith(mark)) or any(end.startswith(mark) or mark.startswith(end) for end in ends)
