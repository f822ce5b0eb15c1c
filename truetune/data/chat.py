"""Lists of messages, in the notations people use, to turns; and the order that turns must have."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from truetune.data.rows import Conversation, RowError, Turn

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "tool": "tool",
}


def from_messages(value: Any, column: str = "messages") -> Conversation:
    """OpenAI's notation: `{role, content, weight?}`; ShareGPT's `{from, value}` is understood as well."""
    if not isinstance(value, list):
        raise RowError("data.type", f"{column!r} must be a list of messages, not {_kind(value)}")
    if not value:
        raise RowError("data.empty", f"{column!r} is an empty list")
    return Conversation(tuple(_turn(item, place) for place, item in enumerate(value, 1)))


def from_sharegpt(value: Mapping[str, Any]) -> Conversation:
    """`conversations` of `{from, value}`, with an optional `system` column."""
    conversation = from_messages(value["conversations"], "conversations")
    if system := value.get("system"):
        return Conversation((Turn("system", text_of(system, "system")), *conversation.turns))
    return conversation


def single(value: Any, column: str, role: str) -> tuple[Turn, ...]:
    """A column that holds one message's text, or a list of messages."""
    if isinstance(value, list):
        return from_messages(value, column).turns
    return (Turn(role, text_of(value, column)),)


def text_of(value: Any, name: str) -> str:
    """Text, or a list of text parts. Raises RowError for anything else: a number is not turned into text."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(_part(part, name) for part in value)
    raise RowError("data.type", f"{_quoted(name)} must be text, not {_kind(value)}")


def check_order(conversation: Conversation) -> Conversation:
    """The conversation through its last answer, in an order that can be served. Raises RowError.

    An empty system message says nothing and is left out; so are turns that no answer follows.
    """
    turns = [turn for turn in conversation.turns if turn.role != "system" or turn.content.strip()]
    places = [place for place, turn in enumerate(turns) if turn.role == "assistant"]
    if not places:
        raise RowError("data.no_answer", "the conversation has no assistant turn")
    turns = turns[: places[-1] + 1]
    for place, turn in enumerate(turns):
        before = turns[place - 1].role if place else ""
        if not turn.content.strip():
            raise RowError("data.empty", f"the {turn.role} message {place + 1} is empty")
        if turn.role == "system" and place:
            raise RowError("data.role_order", "a system message stands in the middle of the conversation")
        if turn.role == "assistant" and before in ("", "system", "assistant"):
            raise RowError("data.role_order", f"message {place + 1} is an answer without a question before it")
    return dataclasses.replace(conversation, turns=tuple(turns))


def _turn(item: Any, place: int) -> Turn:
    if not isinstance(item, Mapping):
        raise RowError("data.type", f"message {place} must be an object, not {_kind(item)}")
    if item.get("tool_calls") or item.get("function_call"):
        raise RowError("data.tool_calls", f"message {place} calls a tool, which is not in this version")
    role = item.get("role", item.get("from"))
    if not isinstance(role, str) or role not in ROLES:
        raise RowError("data.role", f"message {place} has the role {role!r}; known are {', '.join(sorted(ROLES))}")
    content = text_of(item.get("content", item.get("value")), f"message {place}")
    return Turn(ROLES[role], content, _weight(item.get("weight"), place))


def _weight(value: Any, place: int) -> float:
    if value is None:
        return 1.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise RowError("data.weight", f"the weight of message {place} must be a number from 0 on")
    return float(value)


def _part(part: Any, name: str) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    raise RowError("data.content_part", f"{_quoted(name)} has a part that is not text ({kind or _kind(part)})")


def _quoted(name: str) -> str:
    """A column in quotes; `message 3` is none."""
    return name if " " in name else repr(name)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
