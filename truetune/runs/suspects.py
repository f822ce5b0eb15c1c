"""What grew from step to step: lines that keep what they allocate, containers that get longer, types that multiply.

A look counts all of it at one moment; what is more in each of three looks, in step with the steps, is a suspect.
Lines are known where tracemalloc runs. There they are all that is counted, for what counting allocates is traced, too.
"""

from __future__ import annotations

import gc
import sys
import sysconfig
import tracemalloc
from array import array
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any, Literal

from truetune.models.memory import readable

FRAMES = 25
"""Calls that are recorded of each allocation: from deep inside a library up to the line that keeps the result."""
TOLD = 5
"""Suspects of each kind."""
PACE = 0.5
"""Per step: what is added more seldom does not go with the steps."""
LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
OWN = {__file__, __file__.replace("suspects", "monitor"), tracemalloc.__file__}
LIGHT = 0.05
"""Of the heaviest suspect: what weighs less is not told beside it."""
CONTAINERS = (list, dict, set, deque)


@dataclass(frozen=True)
class Suspect:
    """Something that grew by `count` (blocks, items, objects) and `size` bytes per step, where that is known."""

    kind: Literal["line", "container", "type"]
    what: str
    """`train.py:12`, `list kept in main (train.py:12)`, `torch.Tensor`."""
    count: float
    size: float | None = None

    def __str__(self) -> str:
        pace = f"{self.count:.3g}"
        unit = {"line": "block", "container": "item", "type": "object"}[self.kind] + ("" if pace == "1" else "s")
        size = f"{readable(self.size)}, " if self.size is not None else ""
        return f"{self.what}: {size}{pace} {unit} more per step"


@dataclass(frozen=True)
class Look:
    """All there is after a step. Arrays, for a look should take up little of what it looks at."""

    step: int
    types: Counter[type]
    ids: array[int]
    lengths: array[int]
    lines: dict[tuple[str, int], tuple[int, int]]
    """(file, line) -> (bytes, blocks)."""


OWN_TYPES = {Look, array, Counter}


def look(step: int) -> Look:
    """Where tracemalloc runs, the allocations by line; else the objects by type and the items of containers."""
    if tracemalloc.is_tracing():
        return Look(step, Counter(), array("Q"), array("Q"), dict(lines()))
    things = gc.get_objects()
    held = containers(things)
    return Look(step, Counter(map(type, things)), array("Q", map(id, held)), array("Q", map(len, held)), {})


def containers(things: list[Any]) -> list[Any]:
    """Those among `things`; and the dictionaries that these hold and the collector does not know, for it passes over
    any without a key or value that could be part of a cycle (one of numpy's arrays, say)."""
    inner = gc.get_referents(*things)
    plain = {id(thing): thing for thing in inner if type(thing) is dict and not gc.is_tracked(thing)}
    return [*(thing for thing in things if type(thing) in CONTAINERS), *plain.values()]


def lines() -> Iterator[tuple[tuple[str, int], tuple[int, int]]]:
    """What is allocated now, by the line that asked for it."""
    sums: dict[tuple[str, int], tuple[int, int]] = {}
    for found in tracemalloc.take_snapshot().statistics("traceback"):
        place = line(found.traceback)
        if place:
            size, count = sums.get(place, (0, 0))
            sums[place] = size + found.size, count + found.count
    yield from sums.items()


def line(calls: tracemalloc.Traceback) -> tuple[str, int] | None:
    """The innermost line outside of libraries, else the innermost; None for what the monitor itself allocates."""
    if any(call.filename in OWN for call in calls):
        return None
    inner = [call for call in reversed(calls) if not call.filename.startswith((*LIBRARIES, "<"))]
    chosen = inner[0] if inner else calls[-1]
    return chosen.filename, chosen.lineno


def suspects(looks: Sequence[Look]) -> list[Suspect]:
    """What grew between the first look, one half-way and the last; the most first, containers before types."""
    if len(looks) < 3:
        return []
    first, last = looks[0], looks[-1]
    half = min(looks[1:-1], key=lambda one: abs(2 * one.step - first.step - last.step))
    three = (first, half, last)
    return [*_lines(three), *_containers(three), *_types(three)]


Three = tuple[Look, Look, Look]


def _pace(looks: Three, counts: tuple[int, int, int]) -> float:
    """How many more per step; 0 where they did not become more, in step with the steps, both times."""
    steps = [one.step for one in looks]
    paces = [
        (after - before) / max(1, later - earlier)
        for before, after, earlier, later in zip(counts, counts[1:], steps, steps[1:], strict=False)
    ]
    whole = (counts[2] - counts[0]) / max(1, steps[2] - steps[0])
    return whole if min(paces) >= PACE else 0.0


def _lines(looks: Three) -> list[Suspect]:
    found = []
    for place, (size, _) in looks[2].lines.items():
        seen = [one.lines.get(place, (0, 0)) for one in looks]
        pace = _pace(looks, (seen[0][1], seen[1][1], seen[2][1]))
        grown = (size - seen[0][0]) / max(1, looks[2].step - looks[0].step)
        if pace and grown > 0:
            found.append(Suspect("line", f"{place[0]}:{place[1]}", pace, grown))
    return _heaviest(found)


def _heaviest(found: list[Suspect]) -> list[Suspect]:
    """Those that weigh most, without those that weigh little beside them."""
    found.sort(key=lambda one: -(one.size or 0))
    return [one for one in found[:TOLD] if (one.size or 0) >= LIGHT * (found[0].size or 0)]


def _types(looks: Three) -> list[Suspect]:
    found = []
    for kind in looks[2].types.keys() - OWN_TYPES:
        pace = _pace(looks, (looks[0].types[kind], looks[1].types[kind], looks[2].types[kind]))
        if pace:
            found.append(Suspect("type", name(kind), pace))
    return sorted(found, key=lambda one: (-one.count, one.what))[:TOLD]


def _containers(looks: Three) -> list[Suspect]:
    """Containers that are still there and got longer; what they are called, and about how much they took up."""
    sizes = [dict(zip(one.ids, one.lengths, strict=True)) for one in looks]
    paces = {
        key: pace
        for key, length in sizes[2].items()
        if (pace := _pace(looks, (sizes[0].get(key, length), sizes[1].get(key, length), length)))
    }
    held = [thing for thing in containers(gc.get_objects()) if id(thing) in paces]
    held.sort(key=lambda thing: -paces[id(thing)] * weight(thing))
    found = [
        Suspect("container", called(thing), paces[id(thing)], paces[id(thing)] * weight(thing)) for thing in held[:TOLD]
    ]
    return _heaviest(found)


def weight(thing: Any) -> int:
    """Bytes of an item of the container, by one of them: the newest of an ordered one."""
    with suppress(Exception):  # an item may be any object, with any idea of its size
        items = thing.values() if isinstance(thing, dict) else thing
        item = next(iter(items) if isinstance(thing, set) else reversed(items))
        return max(int(getattr(item, "nbytes", 0)), sys.getsizeof(item))
    return 0


def called(thing: Any) -> str:
    """`list kept in main (train.py:12)`, `list Trainer.history`; by the type alone where nothing names it."""
    kind = type(thing).__name__
    frame: FrameType | None = sys._getframe(1)
    while frame:
        code = frame.f_code
        names = [key for key, value in frame.f_locals.items() if value is thing] if code.co_filename not in OWN else []
        if names:
            return f"{kind} {names[0]} in {code.co_name} ({code.co_filename}:{frame.f_lineno})"
        frame = frame.f_back
    owner = next(filter(None, (attribute(holder, thing) for holder in gc.get_referrers(thing))), "")
    return f"{kind} {owner}".strip()


def attribute(holder: Any, thing: Any) -> str:
    """`Trainer.history` or `module.cache`, where `holder` is the object, the module, or its dictionary."""
    with suppress(Exception):  # any object may stand here, with any idea of what its attributes are
        values = holder if isinstance(holder, dict) else vars(holder)
        key = next(key for key, value in values.items() if value is thing)
        if isinstance(holder, dict):
            owner = next(one for one in gc.get_referrers(holder) if getattr(one, "__dict__", None) is holder)
        else:
            owner = holder
        return f"{getattr(owner, '__name__', type(owner).__qualname__)}.{key}"
    return ""


def name(kind: type) -> str:
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"{module}{kind.__qualname__}"
