"""Which new questions are nearly one that is asked already: found at the end, over all of them at once and on disk, as
for rows (`truetune.data.near`), because those that are known may be many."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from truetune.data.near import ALIKE, Sides, Sketches, resemblance, sides
from truetune.data.rows import Conversation, Turn

COMPARED = 32
"""Questions of a group that a new one is compared with."""


def copies(known: Iterable[str], new: Sequence[str]) -> dict[int, str]:
    """Places in `new` of questions that are nearly a known one (`known`), or an earlier new one (`twice`)."""
    with tempfile.TemporaryDirectory() as folder:
        sketches, total = Sketches(Path(folder)), 0
        texts = [*known, *new]
        for total, text in enumerate(texts, 1):
            sketches.add(total - 1, question(text))
        groups = sketches.groups(total).tolist()
    border = len(texts) - len(new)
    wanted = set(groups[border:])
    kept: dict[int, list[int]] = defaultdict(list)
    found = {}
    for place, group in enumerate(groups):
        if group not in wanted:
            continue
        kin = kindred(texts, place, kept[group][:COMPARED]) if place >= border else None
        if kin is None:
            kept[group].append(place)
        else:
            found[place - border] = "known" if kin < border else "twice"
    return found


def kindred(texts: Sequence[str], place: int, others: Sequence[int]) -> int | None:
    one = question(texts[place]).sets()
    return next((other for other in others if resemblance(one, question(texts[other]).sets()) >= ALIKE), None)


def question(text: str) -> Sides:
    return sides(Conversation((Turn("user", text),)))
