"""Rows that say which answer is the better one: preference pairs, and answers that somebody found good or bad.

A pair's answers are a text, one message or a list of messages. The list may be the whole conversation, on both sides:
what they begin with in common is the prompt then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from truetune.data.chat import from_messages, single
from truetune.data.rows import Content, Conversation, Preference, Rated, RowError, Turn
from truetune.data.shapes import Shape, Value
from truetune.data.shapes.talks import instruction, system, within
from truetune.data.tools import definitions

PROMPTS = ("prompt", "question", "input")
"""Columns that may hold a pair's prompt, a text or a list of messages; `instruction` and `conversations` may, too."""
RATINGS = (
    ("true", "false"),
    ("1", "0"),
    ("1", "-1"),
    ("yes", "no"),
    ("good", "bad"),
    ("up", "down"),
    ("thumbs_up", "thumbs_down"),
    ("👍", "👎"),
    ("desirable", "undesirable"),
)
"""What people write for a good answer and a bad one."""
MOST = 0.9
"""Share of the flags that must be ratings; the others are bad rows then."""
WORDS = {word: place == 0 for pair in RATINGS for place, word in enumerate(pair)}


def preference(value: Value) -> Content:
    """`chosen` and `rejected`, with a column that holds the prompt or with it in both; optional `system`, `tools`.

    Raises RowError: `data.no_prompt`, `data.prompts_differ`, and what messages raise.
    """
    prompt = (*system(value), *_prompt(value))
    chosen, rejected = (_side(value[name], name) for name in ("chosen", "rejected"))
    whole = [side[0].role != "assistant" for side in (chosen, rejected)]
    if any(whole):
        prompt, chosen, rejected = _parted(prompt, chosen, rejected)
    if not any(turn.role == "user" for turn in prompt):
        raise RowError("data.no_prompt", "the pair has no prompt, neither in a column nor before its answers")
    return Preference(prompt, chosen, rejected, definitions(value.get("tools")))


def rated(flag: str, shapes: Sequence[Shape]) -> Callable[[Value], Content]:
    """A conversation in one of the shapes, and a column that says whether its answer is good."""

    def read(value: Value) -> Content:
        rest = _without(value, flag)
        shape = next((shape for shape in shapes if shape.takes(rest)), None)
        if shape is None:
            raise RowError("data.other_shape", f"beside {flag!r} there are no columns of a prompt and an answer")
        conversation = shape.read(rest)
        assert isinstance(conversation, Conversation)
        return Rated(conversation, _judged(value[flag], flag))

    return read


def rates(flag: str, shapes: Sequence[Shape]) -> Callable[[Value], bool]:
    """Whether a row may be rated: its flag is one of `WORDS`, and the rest is a conversation. Whether it is, all rows
    say together (see `rating`)."""

    def fits(value: Value) -> bool:
        return word(value[flag]) in WORDS and any(shape.takes(value) for shape in shapes)

    return fits


def word(value: Any) -> str:
    """A flag as one of `WORDS` is written; empty where it is none or nothing."""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else str(value)
    return str(value).strip().lower().replace(" ", "_") if isinstance(value, bool | int | str) else ""


def rating(words: Mapping[str, int]) -> bool:
    """Whether flags that say this, each so often, are ratings: the two words of one of `RATINGS`, but for a few."""
    most = max(sum(words.get(word, 0) for word in pair) for pair in RATINGS)
    return most >= MOST * sum(words.values())


def _prompt(value: Value) -> tuple[Turn, ...]:
    if value.get("conversations"):
        return from_messages(value["conversations"], "conversations").turns
    if value.get("instruction"):
        return (Turn("user", instruction(value)),)
    column = next((name for name in PROMPTS if value.get(name)), None)
    return within(single(value[column], column, "user"), value) if column else ()


def _side(value: Any, column: str) -> tuple[Turn, ...]:
    return from_messages([value], column).turns if isinstance(value, Mapping) else single(value, column, "assistant")


def _parted(prompt: tuple[Turn, ...], chosen: tuple[Turn, ...], rejected: tuple[Turn, ...]) -> tuple[Any, Any, Any]:
    """The prompt that both conversations begin with, and what is left of each."""
    last = min(len(chosen), len(rejected)) - 1
    count = next((place for place in range(last) if chosen[place] != rejected[place]), last)
    if {chosen[count].role, rejected[count].role} != {"assistant"}:
        raise RowError("data.prompts_differ", "`chosen` and `rejected` do not begin with the same prompt")
    common = chosen[:count]
    said = [turn.content.strip() for turn in common]
    if any(turn.role != "system" and turn.content.strip() not in said for turn in prompt):
        raise RowError("data.prompts_differ", "the prompt's column is not what `chosen` and `rejected` begin with")
    first = () if common[:1] and common[0].role == "system" else tuple(turn for turn in prompt if turn.role == "system")
    return (*first, *common), chosen[count:], rejected[count:]


def _judged(value: Any, flag: str) -> bool:
    known = WORDS.get(word(value))
    if known is None:
        raise RowError("data.label", f"{flag!r} must say true (a good answer) or false, or such as 1 or 0, good or bad")
    return known


def _without(value: Value, name: str) -> Value:
    return {key: item for key, item in value.items() if key != name}
