"""Examples that fit `max_length`: conversations are dropped or cut by choice, documents go on in a next window."""

from __future__ import annotations

from dataclasses import dataclass

from truetune.data.render import Part, Rendered
from truetune.data.rows import RowError


@dataclass(frozen=True)
class Fitted:
    """What is trained of a row, and how many of its tokens are lost."""

    parts: list[Part]
    lost: int = 0


def fit(rendered: Rendered, max_length: int, too_long: str) -> Fitted:
    """Examples of at most `max_length` tokens, each with at least one that is trained.

    Raises RowError: `data.too_long` if nothing fits, `data.unsupervised` if nothing is trained.
    """
    total = sum(len(part.ids) for part in rendered.parts)
    if rendered.mode == "document":
        parts = [window for part in rendered.parts for window in windows(part, max_length)]
        return _trained(Fitted(parts))
    if too_long == "truncate":
        parts = [cut(part, max_length) for part in rendered.parts]
    else:
        parts = [part for part in rendered.parts if len(part.ids) <= max_length]
    longest = max((len(part.ids) for part in rendered.parts), default=0)
    if longest > max_length and (not parts or too_long == "error"):
        raise RowError("data.too_long", f"{longest} tokens, more than max_length {max_length}")
    parts = [part for part in parts if part.supervised]
    return _trained(Fitted(parts, total - sum(len(part.ids) for part in parts)))


def cut(part: Part, length: int) -> Part:
    """The first `length` tokens."""
    if len(part.ids) <= length:
        return part
    return Part(part.ids[:length], part.weights[:length], ends=False)


def windows(part: Part, length: int) -> list[Part]:
    """Consecutive windows. Each begins with the last token of the one before, so every token but the first of the
    whole is trained exactly once."""
    stops = range(length, len(part.ids) + length - 1, length - 1) if len(part.ids) > length else [len(part.ids)]
    found = []
    for stop in stops:
        start = max(0, stop - length)
        weights = part.weights[start:stop].copy()
        weights[:1] = 0
        found.append(Part(part.ids[start:stop], weights, ends=part.ends and stop >= len(part.ids)))
    return found


def _trained(fitted: Fitted) -> Fitted:
    if not any(part.supervised for part in fitted.parts):
        raise RowError("data.unsupervised", "no token of this row would be trained")
    return fitted
