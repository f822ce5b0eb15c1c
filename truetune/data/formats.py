"""Shapes of rows: which columns make which conversation or document, and which shape a file has.

A shape is a row of `SHAPES`. The shape of a file is decided by all its rows together, never by the first alone.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from truetune.data.chat import check_order, from_messages, from_sharegpt, single, text_of
from truetune.data.rows import Content, Conversation, Document, RowError, Turn
from truetune.errors import InputError

Value = Mapping[str, Any]

SUMMARISE = "Summarise this text:"
"""What stands before the text in rows of a text and its summary."""


@dataclass(frozen=True)
class Shape:
    """`columns` must all be there; `others` may be. `read` turns a row into content or raises RowError."""

    name: str
    columns: tuple[str, ...]
    read: Callable[[Value], Content]
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Format:
    """The shape of a data set: how it was found, and the user's names for its columns."""

    shape: Shape
    share: float
    detected: bool
    columns: Mapping[str, str] | None = None

    def read(self, value: Value) -> Content:
        """A row's content. Raises RowError."""
        value = rename(value, self.columns)
        missing = [name for name in self.shape.columns if name not in value]
        if missing:
            found = shape_of(value)
            if found is not None and found is not self.shape:
                reason = f"the row has the shape `{found.name}`, not `{self.shape.name}`"
            else:
                reason = f"column {missing[0]!r} is missing (shape `{self.shape.name}`)"
            raise RowError("data.other_shape", reason)
        content = self.shape.read(value)
        return check_order(content) if isinstance(content, Conversation) else content

    def report(self) -> dict[str, Any]:
        columns = dict(self.columns) if self.columns else None
        return {"name": self.shape.name, "share": self.share, "detected": self.detected, "columns": columns}


def pair(prompt: str, answer: str) -> Callable[[Value], Content]:
    """One prompt and one answer, each a text or a list of messages; optional `system`."""

    def read(value: Value) -> Content:
        return Conversation((*_system(value), *single(value[prompt], prompt, "user"), *_answer(value[answer], answer)))

    return read


def alpaca(value: Value) -> Content:
    """`instruction`, `input` (optional) below it, `output`; optional `system`, `history` of [question, answer]."""
    instruction, extra = text_of(value["instruction"], "instruction"), value.get("input")
    prompt = f"{instruction}\n\n{text_of(extra, 'input')}" if extra else instruction
    turns = (
        *_system(value),
        *_history(value.get("history")),
        Turn("user", prompt),
        *_answer(value["output"], "output"),
    )
    return Conversation(turns)


def summary(long: str, short: str) -> Callable[[Value], Content]:
    """A long text and its summary; optional `system`. The column alone would not tell the model what to do."""

    def read(value: Value) -> Content:
        text = text_of(value[long], long)
        if not text.strip():
            raise RowError("data.empty", f"{long!r} is empty")
        return Conversation((*_system(value), Turn("user", f"{SUMMARISE}\n\n{text}"), *_answer(value[short], short)))

    return read


def document(value: Value) -> Content:
    text = text_of(value["text"], "text")
    if not text.strip():
        raise RowError("data.empty", "the text is empty")
    return Document(text)


def preference(value: Value) -> Content:
    raise RowError("data.preference", "preference training is not in this version")


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("preference", ("chosen", "rejected"), preference),
        Shape("messages", ("messages",), lambda value: from_messages(value["messages"])),
        Shape("sharegpt", ("conversations",), from_sharegpt, ("system",)),
        Shape("alpaca", ("instruction", "output"), alpaca, ("input", "system", "history")),
        Shape("instruction_response", ("instruction", "response"), pair("instruction", "response"), ("system",)),
        Shape("prompt_completion", ("prompt", "completion"), pair("prompt", "completion"), ("system",)),
        Shape("prompt_response", ("prompt", "response"), pair("prompt", "response"), ("system",)),
        Shape("input_output", ("input", "output"), pair("input", "output"), ("system",)),
        Shape("question_answer", ("question", "answer"), pair("question", "answer"), ("system",)),
        Shape("text_summary", ("text", "summary"), summary("text", "summary"), ("system",)),
        Shape("document_summary", ("document", "summary"), summary("document", "summary"), ("system",)),
        Shape("dialogue_summary", ("dialogue", "summary"), summary("dialogue", "summary"), ("system",)),
        Shape("article_highlights", ("article", "highlights"), summary("article", "highlights"), ("system",)),
        Shape("text", ("text",), document),
    )
}
"""In the order in which a row is tried: the more telling columns first."""


def shape_of(value: Value) -> Shape | None:
    return next((shape for shape in SHAPES.values() if all(name in value for name in shape.columns)), None)


def rename(value: Value, columns: Mapping[str, str] | None) -> Value:
    """The row under our names; a column that the user did not name is left out."""
    if columns is None:
        return value
    return {ours: value[theirs] for ours, theirs in columns.items() if theirs in value}


def named(name: str, columns: Mapping[str, str] | None = None) -> Format:
    """The format that the user asked for. Raises InputError (`data.unknown_format`)."""
    if name not in SHAPES:
        raise InputError(
            f"there is no format {name!r}",
            code="data.unknown_format",
            where="data.format",
            hint=f"Formats: {_known()}.",
        )
    _refuse_preference(SHAPES[name])
    return Format(SHAPES[name], 1.0, detected=False, columns=columns)


def detect(rows: Iterable[Value], columns: Mapping[str, str] | None = None) -> Format:
    """The shape that most rows have. Raises InputError (`data.unknown_format`) if none is known, or two are equal."""
    counts: Counter[str | None] = Counter()
    names: Counter[str] = Counter()
    for value in rows:
        names.update(map(str, value))
        shape = shape_of(rename(value, columns))
        counts[shape.name if shape else None] += 1
    _check_columns(names, columns)
    known = [(name, count) for name, count in counts.most_common() if name is not None]
    if not known or counts[None] > known[0][1]:
        raise _unknown("these rows have no shape that is known", names, columns)
    if len(known) > 1 and known[0][1] == known[1][1]:
        raise _unknown(f"as many rows have the shape `{known[0][0]}` as `{known[1][0]}`", names, columns)
    shape = SHAPES[known[0][0]]
    _refuse_preference(shape)
    return Format(shape, known[0][1] / counts.total(), detected=True, columns=columns)


def _check_columns(names: Counter[str], columns: Mapping[str, str] | None) -> None:
    """Refuse a column of the user's that no row has."""
    absent = [theirs for theirs in (columns or {}).values() if theirs not in names]
    if absent:
        found = list(names)[:12]
        near = difflib.get_close_matches(absent[0], found, n=1)
        did = f"Did you mean {near[0]!r}? " if near else ""
        raise InputError(
            f"no row has a column {absent[0]!r}",
            code="data.no_column",
            where="data.columns",
            hint=f"{did}Columns found: {', '.join(found)}. Write our name first: `columns: {{prompt: yours, …}}`.",
        )


def _refuse_preference(shape: Shape) -> None:
    if shape.name == "preference":
        raise InputError(
            "these are preference pairs, and preference training is not in this version",
            code="data.preference",
            where="data.format",
            hint="To train on the better answers alone, write them as prompt and completion.",
        )


def _unknown(message: str, names: Counter[str], columns: Mapping[str, str] | None) -> InputError:
    found = ", ".join(name for name, _ in names.most_common(12)) or "none"
    hint = f"Columns found: {found}. Formats: {_known()}. Name your columns: `columns: {{prompt: …, response: …}}`."
    return InputError(
        message, code="data.unknown_format", where="data.columns" if columns else "data.format", hint=hint
    )


def _known() -> str:
    shapes = [f"{shape.name} ({', '.join(shape.columns)})" for shape in SHAPES.values() if shape.name != "preference"]
    return "; ".join(shapes)


def _system(value: Value) -> tuple[Turn, ...]:
    system = value.get("system")
    return (Turn("system", text_of(system, "system")),) if system else ()


def _answer(value: Any, column: str) -> tuple[Turn, ...]:
    return single(value, column, "assistant")


def _history(value: Any) -> tuple[Turn, ...]:
    turns: list[Turn] = []
    for item in value or ():
        if not isinstance(item, list | tuple) or len(item) != 2:
            raise RowError("data.type", "`history` is a list of [question, answer] pairs")
        turns += [Turn("user", text_of(item[0], "history")), Turn("assistant", text_of(item[1], "history"))]
    return tuple(turns)
