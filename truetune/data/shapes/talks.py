"""Rows that are a conversation: a prompt and its answer in columns, or a list of messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from truetune.data.chat import from_messages, single, text_of
from truetune.data.rows import Content, Conversation, RowError, Turn
from truetune.data.shapes import Value
from truetune.data.tools import definitions

SYSTEM = ("system", "system_prompt")
"""Columns that may hold the system message."""
SUMMARISE = "Summarise this text:"
"""What stands before the text in rows of a text and its summary."""


def messages(value: Value) -> Content:
    """`messages` in OpenAI's notation; optional `tools`."""
    return from_messages(value["messages"], tools=value.get("tools"))


def pair(prompt: str, answer: str) -> Callable[[Value], Content]:
    """One prompt and one answer, each a text or a list of messages; optional `context` below the prompt, `system`, and
    `tools` beside messages."""

    def read(value: Value) -> Content:
        asked = within(single(value[prompt], prompt, "user"), value)
        turns = (*system(value), *asked, *_answer(value[answer], answer))
        return Conversation(turns, definitions(value.get("tools")) if isinstance(value[answer], list) else ())

    return read


def alpaca(value: Value) -> Content:
    """`instruction`, `input` (optional) below it, `output`; optional `system`, `history` of [question, answer]."""
    turns = (
        *system(value),
        *_history(value.get("history")),
        Turn("user", instruction(value)),
        *_answer(value["output"], "output"),
    )
    return Conversation(turns)


def summary(long: str, short: str) -> Callable[[Value], Content]:
    """A long text and its summary; optional `system`. The column alone would not tell the model what to do."""

    def read(value: Value) -> Content:
        text = text_of(value[long], long)
        if not text.strip():
            raise RowError("data.empty", f"{long!r} is empty")
        return Conversation((*system(value), Turn("user", f"{SUMMARISE}\n\n{text}"), *_answer(value[short], short)))

    return read


def instruction(value: Value) -> str:
    """Alpaca's `instruction` with its `input` and `context`, if there are any, below it."""
    text, extra = text_of(value["instruction"], "instruction"), value.get("input")
    return "\n\n".join(filter(None, (text, text_of(extra, "input") if extra else "", context(value))))


def system(value: Value) -> tuple[Turn, ...]:
    """The turn of the column `system` or `system_prompt`, if there is any."""
    column = next((name for name in SYSTEM if value.get(name)), None)
    return (Turn("system", text_of(value[column], column)),) if column else ()


def context(value: Value) -> str:
    """What the column `context` holds, a text or several; empty where there is none."""
    said = value.get("context")
    if isinstance(said, list) and all(isinstance(text, str) for text in said):
        return "\n\n".join(said)
    return text_of(said, "context") if said else ""


def within(turns: tuple[Turn, ...], value: Value) -> tuple[Turn, ...]:
    """The turns of a prompt, its `context` below the last of them."""
    extra = context(value)
    if not extra.strip() or not turns:
        return turns
    return (*turns[:-1], replace(turns[-1], content=f"{turns[-1].content}\n\n{extra}"))


def _answer(value: Any, column: str) -> tuple[Turn, ...]:
    return single(value, column, "assistant")


def _history(value: Any) -> tuple[Turn, ...]:
    turns: list[Turn] = []
    pairs = value or []
    if not isinstance(pairs, list) or not all(isinstance(item, list | tuple) and len(item) == 2 for item in pairs):
        raise RowError("data.type", "`history` is a list of [question, answer] pairs")
    for item in pairs:
        turns += [Turn("user", text_of(item[0], "history")), Turn("assistant", text_of(item[1], "history"))]
    return tuple(turns)
