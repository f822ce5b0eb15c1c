"""Shapes of rows: what a row with certain columns is. The table of ours is `table.SHAPES`; packages may bring others.

from truetune.data.shapes import Shape
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from truetune.data.rows import Content

Value = Mapping[str, Any]

KINDS = {
    "conversation": "conversations",
    "document": "plain texts",
    "preference": "preference pairs",
    "rated": "rated answers",
    "labelled": "labelled texts",
}
"""What a shape's rows become, and what a person calls many of them."""


def always(value: Value) -> bool:
    return True


@dataclass(frozen=True)
class Shape:
    """`columns` must all be there; `others` may be. `read` turns a row into content or raises RowError.

    `kind` says which content that is, a key of `KINDS`. `fits` looks into a row that has the columns, where the same
    columns can mean another thing. `inner` are shapes of which a row has one beside the columns.
    """

    name: str
    columns: tuple[str, ...]
    read: Callable[[Value], Content]
    others: tuple[str, ...] = ()
    kind: str = "conversation"
    fits: Callable[[Value], bool] = always
    inner: tuple[Shape, ...] = ()

    @cached_property
    def names(self) -> frozenset[str]:
        return frozenset((*self.columns, *self.others))

    def takes(self, value: Value) -> bool:
        return all(name in value for name in self.columns) and self.fits(value)

    def used(self, value: Value) -> frozenset[str]:
        """The names of columns that `read` looks into."""
        within = next((shape for shape in self.inner if shape.takes(value)), None)
        return self.names if within is None else within.names.union(self.columns)
