"""What the model thought of every text before training, for objectives that compare with it: computed once, kept in
the run's folder, so that a resume has the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from truetune.data.example import Example
from truetune.runs import durable

FOLDER, KEY = "reference", "log_probabilities"
PART = 64
"""Examples that are measured between two looks at the stop flag."""

Table = NDArray[np.float32]
"""[examples, texts]: Σ weight · log p of each text, and of the contrast where there is one."""
Measure = Callable[[Sequence[Example]], Table]


class Referenced(Sequence[Example]):
    """Examples, each with its row of the table."""

    def __init__(self, examples: Sequence[Example], table: Table) -> None:
        self.examples, self.table = examples, table

    def __len__(self) -> int:
        return len(self.examples)

    @overload
    def __getitem__(self, place: int) -> Example: ...
    @overload
    def __getitem__(self, place: slice) -> Referenced: ...
    def __getitem__(self, place: int | slice) -> Example | Referenced:
        if isinstance(place, slice):
            return Referenced(self.examples[place], self.table[place])
        return told(self.examples[place], self.table[place].tolist())


def told(example: Example, row: list[float]) -> Example:
    """The example with its row of the table, of which a contrast has the last column."""
    if example.contrast is None:
        return replace(example, reference=tuple(row))
    *own, last = row
    return replace(example, reference=tuple(own), contrast=replace(example.contrast, reference=(last,)))


def referenced(
    examples: Sequence[Example], path: Path, measure: Measure, look: Callable[[int], bool]
) -> Referenced | None:
    """The examples with what stands in the file, which is made where there is none. `look` is told how many are done,
    and says whether to stop: then there is nothing."""
    table = read(path, len(examples))
    if table is None:
        table = measured(examples, measure, look)
        if table is None:
            return None
        durable.folder(path.parent)
        durable.write(path, save({KEY: table}))
    return Referenced(examples, table)


def measured(examples: Sequence[Example], measure: Measure, look: Callable[[int], bool]) -> Table | None:
    parts = []
    for start in range(0, len(examples), PART):
        if look(start):
            return None
        places = range(start, min(start + PART, len(examples)))
        parts.append(opinions([examples[place] for place in places], measure))
    return np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)


def opinions(examples: Sequence[Example], measure: Measure) -> Table:
    """Of the examples, and of their contrasts where they have them."""
    beside = [example.contrast for example in examples if example.contrast is not None]
    own = measure(examples)
    return np.concatenate((own, measure(beside)), axis=1) if beside else own


def read(path: Path, rows: int) -> Table | None:
    """The table of a file; None where there is none, or it is not whole."""
    try:
        table = load(path.read_bytes())[KEY]
    except (OSError, KeyError, SafetensorError):
        return None
    return table if table.dtype == np.float32 and table.ndim == 2 and len(table) == rows else None
