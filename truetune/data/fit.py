"""Examples that fit `max_length`: conversations are dropped, cut or split by choice, documents go on in a window."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from truetune.data.render import Part, Rendered, Renderer
from truetune.data.rows import Conversation, RowError, Turn


@dataclass(frozen=True)
class Fitted:
    """What is trained of a row, and how many of its tokens are lost."""

    parts: list[Part]
    lost: int = 0


def fit(rendered: Rendered, max_length: int, too_long: str, overlap: int = 0) -> Fitted:
    """Examples of at most `max_length` tokens, each with at least one that is trained; `overlap` as in `windows`.

    Raises RowError: `data.too_long` if nothing fits or no answer is left, `data.unsupervised` if nothing is trained.
    """
    if rendered.mode == "document":
        return _trained(Fitted([window for part in rendered.parts for window in windows(part, max_length, overlap)]))
    whole = rendered.mode in ("pair", "labelled")
    if too_long == "truncate":
        parts = [cut(part, max_length) for part in rendered.parts]
    else:
        parts = [part for part in rendered.parts if len(part.ids) <= max_length]
    longest, total = _lengths(rendered)
    if longest > max_length and (not parts or too_long == "error" or (whole and len(parts) < len(rendered.parts))):
        raise _too_long(longest, max_length)
    lost = total - sum(len(part.ids) for part in parts)
    if rendered.mode == "labelled":
        return Fitted(parts, lost)
    trained = [part for part in parts if part.supervised]
    if len(trained) < (len(parts) if whole else 1) and sum(part.supervised > 0 for part in rendered.parts) > len(
        trained
    ):
        raise RowError("data.too_long", f"nothing of the answer is left within max_length {max_length}")
    if whole and len(trained) < len(parts):
        raise RowError("data.unsupervised", "no token of one of the sides would be trained")
    lost = total - sum(len(part.ids) for part in trained)
    return _trained(Fitted([joined(*trained)] if rendered.mode == "pair" else trained, lost))


def joined(first: Part, second: Part) -> Part:
    """Both texts of a pair as one example."""
    ids, weights = np.concatenate((first.ids, second.ids)), np.concatenate((first.weights, second.weights))
    return Part(ids, weights, first.ends and second.ends, second=len(first.ids))


def portions(row: Conversation, rendered: Rendered, renderer: Renderer, max_length: int) -> Fitted:
    """As `fit`, with a conversation that is too long split where a question begins, until its parts fit. Each part
    keeps the system message, each answer is trained once; what does not fit by itself is lost.

    Raises RowError as `fit` does.
    """
    longest, _ = _lengths(rendered)
    if longest <= max_length:
        return fit(rendered, max_length, "drop")
    row = _settled(row, renderer.train_on)
    found = _portions(row, rendered, replace(renderer, train_on=_each(renderer.train_on)), max_length)
    if not found.parts:
        raise _too_long(longest, max_length, "" if _halves(row) else "one question and answer of ")
    return found


def _portions(row: Conversation, rendered: Rendered, renderer: Renderer, max_length: int) -> Fitted:
    longest, total = _lengths(rendered)
    if longest <= max_length:
        return Fitted([part for part in rendered.parts if part.supervised])
    halves = _halves(row)
    if not halves:
        return Fitted([], total)
    both = [_portions(half, renderer.one(half), renderer, max_length) for half in halves]
    return Fitted([part for half in both for part in half.parts], sum(half.lost for half in both))


def _halves(row: Conversation) -> list[Conversation]:
    """The conversation in two, split where a question begins, nearest to the middle of its text; empty if it has only
    one question."""
    head = [turn for turn in row.turns[:1] if turn.role == "system"]
    turns = row.turns[len(head) :]
    borders = [at for at in range(1, len(turns)) if turns[at].role == "user" and turns[at - 1].role == "assistant"]
    if not borders:
        return []
    sizes = [len(turn.content) for turn in turns]
    at = min(borders, key=lambda border: abs(sum(sizes[:border]) - sum(sizes[border:])))
    return [replace(row, turns=(*head, *part)) for part in (turns[:at], turns[at:])]


def _settled(row: Conversation, train_on: str) -> Conversation:
    """The conversation with its weights such that its parts train what the whole would: for `last`, the last answer."""
    if train_on != "last":
        return row
    last = max(place for place, turn in enumerate(row.turns) if turn.role == "assistant")
    turns: list[Turn] = [
        replace(turn, weight=0.0) if turn.role == "assistant" and place != last else turn
        for place, turn in enumerate(row.turns)
    ]
    return replace(row, turns=tuple(turns))


def _each(train_on: str) -> str:
    return "assistant" if train_on == "last" else train_on


def _lengths(rendered: Rendered) -> tuple[int, int]:
    """Tokens of the longest part, and of all."""
    lengths = [len(part.ids) for part in rendered.parts]
    return max(lengths, default=0), sum(lengths)


def _too_long(longest: int, max_length: int, what: str = "") -> RowError:
    """`what` is long, where splitting it is no help."""
    advice = ": raise it, or use `too_long: truncate`" if what else ""
    return RowError("data.too_long", f"{what}{longest} tokens, more than max_length {max_length}{advice}")


def cut(part: Part, length: int) -> Part:
    """The first `length` tokens; of a labelled text as well those that close it. Raises RowError `data.too_long` where
    nothing would be left of the second text of a labelled pair."""
    if len(part.ids) <= length:
        return part
    kept = length - part.tail
    if part.labelled and part.second >= kept:
        raise RowError("data.too_long", f"nothing of the second text is left within max_length {length}")
    ids = np.concatenate((part.ids[:kept], part.ids[len(part.ids) - part.tail :]))
    return replace(part, ids=ids, weights=part.weights[:length], ends=False)


def windows(part: Part, length: int, overlap: int = 0) -> list[Part]:
    """Consecutive windows. Each begins with the last `overlap` tokens of the one before, at least one, which are read
    and not trained again: every token but the first of the whole is trained exactly once."""
    lead = max(1, overlap)
    step = length - lead
    stops = range(length, len(part.ids) + step, step) if len(part.ids) > length else [len(part.ids)]
    found = []
    for stop in stops:
        start = max(0, stop - length)
        weights = part.weights[start:stop].copy()
        weights[: lead if start else 1] = 0
        found.append(Part(part.ids[start:stop], weights, ends=part.ends and stop >= len(part.ids)))
    return found


def _trained(fitted: Fitted) -> Fitted:
    if not any(part.supervised for part in fitted.parts):
        raise RowError("data.unsupervised", "no token of this row would be trained")
    return fitted
