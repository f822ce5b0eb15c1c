"""Contents as rows again, in the notations that people and other tools read: the other way round of `shapes`.

What a notation can't hold is refused with `data.notation`, so that reading a row gives the content it was written from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from truetune.data.rows import Content, Conversation, Document, Labelled, Preference, Rated, RowError, Turn
from truetune.data.shapes import KINDS, Shape

FROM = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}
"""ShareGPT's names of the roles."""


@dataclass(frozen=True)
class Notation:
    """`columns` say what each holds: `text`, `flag`, `texts`, `pairs` (of texts), `messages` (OpenAI's), `turns`
    (ShareGPT's), `json`, or `words`: text, or messages where a row has more than one text can hold."""

    name: str
    kind: str
    write: Callable[[Any, bool], dict[str, Any]]
    columns: Mapping[str, str]


def to_row(content: Content, notation: str, lists: bool = False) -> dict[str, Any]:
    """The content as a row; `lists` writes every `words` as messages. Raises RowError (`data.notation`)."""
    found = NOTATIONS[notation]
    if not isinstance(content, CONTENTS[found.kind]):
        kind = next(kind for kind, content_ in CONTENTS.items() if isinstance(content, content_))
        raise RowError("data.notation", f"`{notation}` holds {KINDS[found.kind]}, and these are {KINDS[kind]}")
    return found.write(content, lists)


def natural(shape: Shape, table: bool = False) -> str:
    """The notation that holds all of what rows of this shape hold; of a `table` of texts, most of it."""
    if shape.kind == "labelled":
        return "multilabel" if "labels" in shape.columns else "classification" if len(shape.columns) < 3 else "pairs"
    if shape.kind == "conversation" and table:
        return "prompt_completion"
    return {"conversation": "openai", "document": "text", "preference": "preference", "rated": "kto"}[shape.kind]


def message(turn: Turn) -> dict[str, Any]:
    """In OpenAI's notation, where arguments are text; a weight stands there if it is not 1."""
    found = turn.message()
    if turn.calls:
        found["tool_calls"] = [_call(call) for call in turn.calls]
    return found if turn.weight == 1 else {**found, "weight": turn.weight}


def _openai(talk: Conversation, lists: bool) -> dict[str, Any]:
    return {"messages": _messages(talk.turns), **_tools(talk.tools)}


def _sharegpt(talk: Conversation, lists: bool) -> dict[str, Any]:
    return {"conversations": [part for turn in talk.turns for part in _parts(turn)], **_tools(talk.tools)}


def _alpaca(talk: Conversation, lists: bool) -> dict[str, Any]:
    system, turns = _begun(talk.turns)
    if talk.tools or not all(map(plain, talk.turns)):
        raise _unheld("alpaca", "tools, names and weights of messages")
    if [turn.role for turn in turns] != ["user", "assistant"] * (len(turns) // 2):
        raise _unheld("alpaca", "anything but questions and answers in turn")
    texts = [turn.content for turn in turns]
    history = [list(pair) for pair in zip(texts[:-2:2], texts[1:-2:2], strict=True)]
    row = {"instruction": texts[-2], "input": "", "output": texts[-1]}
    return {**row, **system, **({"history": history} if history else {})}


def _prompt_completion(talk: Conversation, lists: bool) -> dict[str, Any]:
    system, turns = _begun(talk.turns)
    short = not talk.tools and all(map(plain, talk.turns)) and len(turns) == 2
    if short and not lists:
        return {"prompt": turns[0].content, "completion": turns[1].content, **system}
    sides = {"prompt": _messages(talk.turns[:-1]), "completion": _messages(talk.turns[-1:])}
    return {**sides, **_tools(talk.tools)}


def _text(document: Document, lists: bool) -> dict[str, Any]:
    return {"text": document.text}


def _preference(pair: Preference, lists: bool) -> dict[str, Any]:
    system, turns = _begun(pair.prompt)
    sides = {"chosen": pair.chosen, "rejected": pair.rejected}
    whole = (*pair.prompt, *pair.chosen, *pair.rejected)
    short = not pair.tools and all(map(plain, whole)) and len(turns) == len(pair.chosen) == len(pair.rejected) == 1
    if short and not lists:
        return {"prompt": turns[0].content, **{name: side[0].content for name, side in sides.items()}, **system}
    written = {name: _messages(side) for name, side in sides.items()}
    return {"prompt": _messages(pair.prompt), **written, **_tools(pair.tools)}


def _kto(rated: Rated, lists: bool) -> dict[str, Any]:
    return {**_prompt_completion(rated.conversation, lists), "label": rated.desirable}


def _classification(text: Labelled, lists: bool) -> dict[str, Any]:
    if len(text.labels) != 1 or text.pair:
        raise _unheld("classification", "several labels (use `multilabel`) or two texts (use `pairs`)")
    return {"text": text.text, "label": text.labels[0]}


def _pairs(text: Labelled, lists: bool) -> dict[str, Any]:
    if len(text.labels) != 1 or not text.pair:
        raise _unheld("pairs", "several labels, or one text alone")
    return {"sentence1": text.text, "sentence2": text.pair, "label": text.labels[0]}


def _multilabel(text: Labelled, lists: bool) -> dict[str, Any]:
    if text.pair:
        raise _unheld("multilabel", "two texts")
    return {"text": text.text, "labels": list(text.labels)}


SIDES = {"prompt": "words", "completion": "words"}
NOTATIONS = {
    notation.name: notation
    for notation in (
        Notation("openai", "conversation", _openai, {"messages": "messages", "tools": "json"}),
        Notation("sharegpt", "conversation", _sharegpt, {"conversations": "turns", "tools": "json"}),
        Notation(
            "alpaca",
            "conversation",
            _alpaca,
            {"instruction": "text", "input": "text", "output": "text", "system": "text", "history": "pairs"},
        ),
        Notation("prompt_completion", "conversation", _prompt_completion, {**SIDES, "system": "text", "tools": "json"}),
        Notation("text", "document", _text, {"text": "text"}),
        Notation(
            "preference",
            "preference",
            _preference,
            {"prompt": "words", "chosen": "words", "rejected": "words", "system": "text", "tools": "json"},
        ),
        Notation("kto", "rated", _kto, {**SIDES, "label": "flag", "system": "text", "tools": "json"}),
        Notation("classification", "labelled", _classification, {"text": "text", "label": "text"}),
        Notation("pairs", "labelled", _pairs, {"sentence1": "text", "sentence2": "text", "label": "text"}),
        Notation("multilabel", "labelled", _multilabel, {"text": "text", "labels": "texts"}),
    )
}
CONTENTS: dict[str, type] = {
    "conversation": Conversation,
    "document": Document,
    "preference": Preference,
    "rated": Rated,
    "labelled": Labelled,
}


def plain(turn: Turn) -> bool:
    """Whether it is a role and a text, and nothing else."""
    return turn == Turn(turn.role, turn.content)


def _messages(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    return [message(turn) for turn in turns]


def _begun(turns: tuple[Turn, ...]) -> tuple[dict[str, str], tuple[Turn, ...]]:
    """The system message as a column, and the turns after it."""
    if turns and turns[0].role == "system":
        return {"system": turns[0].content}, turns[1:]
    return {}, turns


def _tools(tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"tools": list(tools)} if tools else {}


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {**call, "function": {**function, "arguments": _json(function["arguments"])}}


def _parts(turn: Turn) -> list[dict[str, Any]]:
    """A turn in ShareGPT's notation: what the assistant says and what it calls are two."""
    more = {"name": turn.name, "tool_call_id": turn.call_id, "weight": turn.weight if turn.weight != 1 else None}
    kept = {key: value for key, value in more.items() if value is not None and value != ""}
    if not turn.calls:
        return [{"from": FROM[turn.role], "value": turn.content, **kept}]
    calls = [{**({"id": call["id"]} if "id" in call else {}), **call["function"]} for call in turn.calls]
    said = [{"from": "gpt", "value": turn.content}] if turn.content else []
    return [*said, {"from": "function_call", "value": _json(calls if len(calls) > 1 else calls[0]), **kept}]


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


def _unheld(notation: str, what: str) -> RowError:
    return RowError("data.notation", f"`{notation}` can't hold {what}")
