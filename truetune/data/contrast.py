"""Rated rows beside answers that are not theirs. KTO estimates on such pairs how far the model has moved."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from truetune.data.cache import Examples
from truetune.data.example import Example


class Contrasted(Examples):
    """Examples, each with its prompt beside the answer of the nearest example before it that has another prompt; the
    last ones stand before the first. So what is compared does not depend on the order of the training."""

    def __init__(self, examples: Examples) -> None:
        super().__init__(examples._ids, examples._weights, examples._labels, examples._index)

    def __getitem__(self, place):  # type: ignore[no-untyped-def]
        """An `Example` with its contrast; a slice is one without."""
        found = super().__getitem__(place)
        if isinstance(place, slice):
            return found
        other = super().__getitem__(int(self.partners[place]))
        return contrasted(found, other, self.longest)

    @cached_property
    def longest(self) -> int:
        return int(self.lengths.max())

    @cached_property
    def partners(self) -> NDArray[np.int64]:
        """For each example the place of the one whose answer it is shown with; the one before it where all prompts are
        the same."""
        one = super().__getitem__
        asked = [hash(prompt(one(place)).tobytes()) for place in range(len(self))]
        last = len(asked) - 1
        found = np.arange(-1, last)
        found[:1] = next((place for place in range(last, 0, -1) if asked[place] != asked[0]), last)
        for place in range(1, len(asked)):
            if asked[place] == asked[place - 1]:
                found[place] = found[place - 1]
        return found


def contrasted(example: Example, other: Example, longest: int) -> Example:
    """The example with a contrast: its own prompt, then the other's answer, at most `longest` tokens."""
    start, begin = len(prompt(example)), len(prompt(other))
    ids = np.concatenate((example.ids[:start], other.ids[begin:]))[:longest]
    weights = np.concatenate((np.zeros(start, np.float32), other.weights[begin:]))[:longest]
    beside = Example(ids, weights, example.row)
    return Example(example.ids, example.weights, example.row, example.second, example.label, (), beside)


def prompt(example: Example) -> NDArray[np.int32]:
    """The tokens before the first that is trained."""
    return example.ids[: int(example.weights.astype(bool).argmax())]
