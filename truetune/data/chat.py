"""Lists of messages, in the notations people use, to turns; and the order that turns must have."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from truetune.data.rows import Conversation, RowError, Turn
from truetune.data.tools import calls, definitions

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "function_response": "tool",
    "tool_response": "tool",
}
CALLING = ("function_call", "tool_call")
"""Roles whose text is no text but calls."""


def from_messages(value: Any, column: str = "messages", tools: Any = None) -> Conversation:
    """OpenAI's notation: `{role, content, tool_calls?, name?, tool_call_id?, weight?}`; ShareGPT's `{from, value}` is
    understood as well. `tools` are definitions, a list or JSON text."""
    if not isinstance(value, list):
        raise RowError("data.type", f"{column!r} must be a list of messages, not {_kind(value)}")
    if not value:
        raise RowError("data.empty", f"{column!r} is an empty list")
    turns: list[Turn] = []
    for place, item in enumerate(value, 1):
        if not isinstance(item, Mapping):
            reason = (
                f"item {place} of {column!r} must be a message, an object with a role and content, not {_kind(item)}"
            )
            raise RowError("data.type", reason)
        turn = _turn(item, place)
        if turns and turn.calls and not turn.content and _joins(turns[-1], item):
            turn = dataclasses.replace(turn, content=turns.pop().content)
        turns.append(turn)
    return Conversation(tuple(turns), definitions(tools))


def from_sharegpt(value: Mapping[str, Any]) -> Conversation:
    """`conversations` of `{from, value}`, with optional columns `system` (or `system_prompt`) and `tools`."""
    conversation = from_messages(value["conversations"], "conversations", value.get("tools"))
    if system := value.get("system") or value.get("system_prompt"):
        first = Turn("system", text_of(system, "system"))
        return dataclasses.replace(conversation, turns=(first, *conversation.turns))
    return conversation


def _joins(before: Turn, item: Mapping[str, Any]) -> bool:
    """Whether a turn of calls belongs to the text that the assistant said just before it: one turn, written as two."""
    return _role(item) in CALLING and before.role == "assistant" and not before.calls


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
        _check_place(turn, place, turns[place - 1].role if place else "")
    return conversation if len(turns) == len(conversation.turns) else Conversation(tuple(turns), conversation.tools)


def _check_place(turn: Turn, place: int, before: str) -> None:
    if not turn.content.strip() and not turn.calls and turn.role != "tool":  # a tool may have nothing to say
        raise RowError("data.empty", f"the {turn.role} message {place + 1} is empty")
    if turn.role == "system" and place:
        raise RowError("data.role_order", "a system message stands in the middle of the conversation")
    if turn.role == "tool" and before not in ("assistant", "tool"):
        raise RowError("data.role_order", f"message {place + 1} is a tool's answer that nothing called for")
    if turn.role == "assistant" and before in ("", "system", "assistant"):
        raise RowError("data.role_order", f"message {place + 1} is an answer without a question before it")


def _turn(item: Mapping[str, Any], place: int) -> Turn:
    role = _role(item)
    if not isinstance(role, str) or role not in ROLES:
        raise RowError("data.role", f"message {place} has the role {role!r}; known are {', '.join(sorted(ROLES))}")
    said = item.get("content")
    if len(item) == 2 and isinstance(said, str) and role not in CALLING:  # nothing else stands there
        return Turn(ROLES[role], said)
    where = f"message {place}"
    said, called = item.get("content", item.get("value")), item.get("tool_calls") or item.get("function_call")
    if role in CALLING and not called:
        said, called = "", _present(said, where)
    if called and ROLES[role] != "assistant":
        raise RowError("data.tool_calls", f"{where} calls a tool, which only the assistant does")
    return Turn(
        ROLES[role],
        "" if said is None and called else text_of(said, where),
        _weight(item.get("weight"), place),
        calls(called, where) if called else (),
        _label(item, "name", where),
        _label(item, "tool_call_id", where),
    )


def _role(item: Mapping[str, Any]) -> Any:
    """As we write it, in whatever capitals it stands there."""
    role = item.get("role") or item.get("from")
    return role.strip().lower() if isinstance(role, str) and role not in ROLES else role


def _present(said: Any, where: str) -> Any:
    if not said:
        raise RowError("data.tool_calls", f"{where} calls no tool")
    return said


def _label(item: Mapping[str, Any], key: str, where: str) -> str:
    value = item.get(key)
    return text_of(value, f"{key} of {where}") if value is not None else ""


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
