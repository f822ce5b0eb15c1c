"""Bytes of checkpoints that change by themselves: flipped, cut off, zeroed, grown."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from truetune.runs import durable
from truetune.runs.run import Run


@dataclass(frozen=True)
class Damage:
    """What was done to a file."""

    kind: str
    file: str
    place: int


KINDS = ("flip", "cut", "zeros", "grown", "swapped")


def damage(path: Path, kind: str, draw: random.Random) -> Damage:
    """Change a file, so that its bytes are others."""
    data = path.read_bytes()
    place = draw.randrange(len(data))
    if kind == "flip":
        changed = data[:place] + bytes([data[place] ^ (1 << draw.randrange(8))]) + data[place + 1 :]
    elif kind == "cut":
        changed = data[:place]
    elif kind == "grown":
        changed = data + bytes(1 + place % 512)
    elif kind == "zeros":
        changed = data[:place] + bytes(len(data[place : place + 512])) + data[place + 512 :]
    else:
        changed = data[:place][::-1] + data[place:]
    if changed == data:
        kind, changed = "flip", data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
    path.write_bytes(changed)
    return Damage(kind, path.name, place)


def overlooked(run: Run, count: int, seed: int) -> Iterator[Damage]:
    """Damage the run's checkpoints `count` times, one file at a time; every damage that the check does not find."""
    draw = random.Random(seed)
    files = sorted((run.folder / "checkpoints").glob("step-*/*"))
    for number in range(count):
        path = draw.choice(files)
        before = path.read_bytes()
        done = damage(path, KINDS[number % len(KINDS)], draw)
        if not durable.check(path.parent):
            yield done
        path.write_bytes(before)


def false_alarms(run: Run) -> list[str]:
    return [name for folder in (run.folder / "checkpoints").glob("step-*") for name in durable.check(folder)]
