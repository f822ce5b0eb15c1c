"""Where the prompt ends among the ids of a longer text, without encoding the prompt again.

A tokenizer cuts a text at its control tokens before it does anything else, and encodes what lies between them piece by
piece. So up to a control token that stands in both, prompt and longer text have the same ids, and what is left of the
prompt is short and mostly the same in every row (`<|im_start|>assistant`). That rest is encoded from its control token
on, and counts only if the ids of the longer text go on with it: then they begin with the ids of the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from truetune.models.tokenizer import Tokenizer


class Prefix:
    """For the prompts of one template: most of them end with the same control token and the same words."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        added = tokenizer.backend.get_added_tokens_decoder()
        self._ids = {token.content: number for number, token in added.items() if _cuts(token)}
        self._mark = ""

    def rest(self, prompt: str) -> str:
        """The prompt from a control token on, the last if it is the one that most prompts end with; else empty."""
        start = prompt.rfind(self._mark) if self._mark else -1
        if start < 0:
            start, self._mark = max(((prompt.rfind(mark), mark) for mark in self._ids), default=(-1, ""))
        return prompt[start:] if start >= 0 else ""

    def size(self, prompt: str, rest: Sequence[int], encoding: Any, ids: Sequence[int]) -> int | None:
        """How many tokens of the longer text are the prompt; None where that is not proven.

        `rest` are the ids of `self.rest(prompt)`; `encoding` is that of the longer text, `ids` its ids.
        """
        text = self.rest(prompt)
        start = len(prompt) - len(text)
        place = encoding.char_to_token(start) if text and rest else None
        if place is None or encoding.token_to_chars(place) != (start, start + len(self._mark)):
            return None
        if rest[0] != self._ids[self._mark] or list(ids[place : place + len(rest)]) != list(rest):
            return None
        return int(place + len(rest))


def _cuts(token: Any) -> bool:
    """Whether the text is cut exactly here, whatever stands around it."""
    return bool(token.special and not (token.normalized or token.lstrip or token.rstrip or token.single_word))
