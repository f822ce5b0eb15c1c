"""Rows that are a text, or a pair of texts, and the classes it belongs to, by names or by ids."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from truetune.data.chat import text_of
from truetune.data.rows import Content, Document, Labelled, RowError
from truetune.data.shapes import Value
from truetune.data.tools import parsed


def labelled(text: str, pair: str = "") -> Callable[[Value], Content]:
    """One class, in `label`: a name, a number, or true or false."""

    def read(value: Value) -> Content:
        other = _said(value, pair) if pair else ""
        return Labelled(_said(value, text), (_name(value["label"]),), other)

    return read


def several(value: Value) -> Content:
    """Any number of classes, in `labels`: a list, or in a table the text of one in JSON's notation."""
    found = value["labels"]
    found = parsed(found, "`labels`") if isinstance(found, str) and found.lstrip().startswith("[") else found
    names = [_name(item) for item in (found if isinstance(found, list) else [found])]
    if len(set(names)) < len(names):
        raise RowError("data.label", "a label stands twice in the row")
    return Labelled(_said(value, "text"), tuple(names))


def has_label(value: Value) -> bool:
    """Whether `label` is meant as one: a row may have a column of this name that is empty or holds something else. A
    number with a fraction is a bad label, not a text without one."""
    return isinstance(value["label"], str | int | float) and value["label"] != ""


def has_labels(value: Value) -> bool:
    found = value["labels"]
    return isinstance(found, list) or (isinstance(found, str) and bool(found))


def document(value: Value) -> Content:
    return Document(_said(value, "text"))


def _said(value: Value, column: str) -> str:
    text = text_of(value[column], column)
    if not text.strip():
        raise RowError("data.empty", f"{column!r} is empty")
    return text


def _name(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return str(int(value))
    if not isinstance(value, str) or not value.strip():
        raise RowError("data.label", "a label must be a name or a whole number")
    return value
