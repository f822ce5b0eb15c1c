"""Texts to classify, as the tokenizer itself puts them for a model: `[CLS] text [SEP] pair [SEP]`, `<s> text`.

Training ids equal those that anyone's call of the tokenizer gives for the same text or pair. Only where a tokenizer
puts nothing between two texts, as those of causal models do, the pair is written as two lines of one text.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from truetune.data.prefix import Ids
from truetune.data.rows import Labelled, RowError
from truetune.models.tokenizer import Tokenizer

PROBE = "a"
"""A text of at least one token, to see what a tokenizer puts around it."""


@dataclass(frozen=True)
class Frame:
    """The ids that stand before a text, between two, and at the end."""

    lead: tuple[int, ...]
    between: tuple[int, ...]
    tail: tuple[int, ...]

    def texts(self, row: Labelled) -> list[str]:
        """What is encoded: both texts of a pair by themselves, or as lines of one."""
        if row.pair and not self.between:
            return [f"{row.text}\n{row.pair}"]
        return [row.text, row.pair] if row.pair else [row.text]

    def ids(self, parts: list[Ids]) -> tuple[Ids, int]:
        """(the ids of one text or two in their frame, where the second begins; 0 = there is none)."""
        first = [*self.lead, *parts[0].tolist()]
        if len(parts) == 1:
            return np.array([*first, *self.tail], np.int32), 0
        first += self.between
        return np.array([*first, *parts[1].tolist(), *self.tail], np.int32), len(first)


def frame(tokenizer: Tokenizer) -> Frame:
    """What a tokenizer puts around texts."""
    lead, _, tail = _around(tokenizer, pair=False)
    _, between, _ = _around(tokenizer, pair=True)
    begin = tokenizer.id(tokenizer.bos) if tokenizer.bos else None
    if begin is not None and tokenizer.adds_bos != (begin in lead):  # tokenizer_config.json goes before the file
        lead = (begin, *lead) if tokenizer.adds_bos else tuple(number for number in lead if number != begin)
    return Frame(lead, between, tail)


def _around(tokenizer: Tokenizer, pair: bool) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """(before, between, behind) one probe or two: ids that belong to neither."""
    found = tokenizer.backend.encode(PROBE, PROBE if pair else None)
    places = {side: [at for at, of in enumerate(found.sequence_ids) if of == side] for side in (0, 1)}
    first, second = places[0], places[1] or places[0]
    lead, tail = found.ids[: first[0]], found.ids[second[-1] + 1 :]
    return tuple(lead), tuple(found.ids[first[-1] + 1 : second[0]]) if pair else (), tuple(tail)


def check(row: Labelled, tokenizer: Tokenizer) -> None:
    """Refuse texts with a control token of the model, which would end or part them. Raises RowError."""
    for text in (row.text, row.pair):
        if match := tokenizer.special.search(text):
            raise RowError("data.control_token", f"the text contains the model's control token {match[0]!r}")
