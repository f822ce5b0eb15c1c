"""What kills a process from within: at the n-th event of a kind, or at one event by its name."""

from __future__ import annotations

import mmap
import os
import re
import signal
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from truetune.runs.disk import Disk

KINDS = ("saving", "computing", "evaluating", "step", "closing")
"""saving: an operation on a checkpoint, on what is marked as best, or on an old one that goes. computing: a micro-batch
of training. evaluating: one of an evaluation. step: a step is done. closing: another operation on the run's files."""
MEMORY = "/dev/shm"
MICRO = ("_refuse_overflow", "_loss")
"""What engines call once for each micro-batch; one that has neither computes in one piece."""


@dataclass(frozen=True)
class Moment:
    """When a process is to be killed: `at` seconds after its start, at the n-th event of a kind, or at the n-th of a
    name (`rename checkpoint 3`)."""

    kind: str = "nothing"
    """clock, one of KINDS, `named`, or nothing."""
    number: int = 1
    at: float = 0.0
    name: str = ""
    sign: int = signal.SIGKILL


def in_memory() -> tempfile.TemporaryDirectory[str]:
    """A folder in memory where there is such a place: a kill leaves what the system holds, so the disk's own speed
    would only cost time."""
    return tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None)


class Board:
    """What a process is doing, for whoever survives it."""

    SIZE = 128

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, self.SIZE)

    def put(self, text: str) -> None:
        self.memory[:] = text.encode()[: self.SIZE].ljust(self.SIZE)

    def text(self) -> str:
        return self.memory[:].decode(errors="replace").strip().strip("\0")


class Striker:
    """Hears of every event; at the moment the process gets its signal."""

    def __init__(self, moment: Moment, board: Board) -> None:
        self.moment, self.board, self.lock = moment, board, threading.Lock()
        self.counts: Counter[str] = Counter()
        self.events: list[tuple[str, str]] = []

    def __call__(self, kind: str, name: str) -> None:
        """An event that is about to happen."""
        with self.lock:  # a checkpoint may be written by a thread of its own
            self.board.put(f"{kind}: {name}")
            self.events.append((kind, name))
            wanted = self.moment.name if self.moment.kind == "named" else self.moment.kind
            seen = name if self.moment.kind == "named" else kind
            self.counts[seen] += seen == wanted
            if seen == wanted and self.counts[seen] == self.moment.number:
                os.kill(os.getpid(), self.moment.sign)


class Announcing(Disk):
    """Tells of every operation before it is done."""

    def __init__(self, tell: Callable[[str, str], None]) -> None:
        self.tell = tell
        self.names: dict[int, Path] = {}
        self.old: set[Path] = set()
        """Folders of checkpoints that are on their way out."""

    def about(self, operation: str, path: Path, target: Path | None = None) -> None:
        kind, name = what(path, target, self.old)
        self.tell(kind, f"{operation} {name}")

    def create(self, path: Path) -> int:
        self.about("create", path)
        handle = super().create(path)
        self.names[handle] = path
        return handle

    def extend(self, path: Path) -> int:
        self.about("extend", path)
        handle = super().extend(path)
        self.names[handle] = path
        return handle

    def write(self, handle: int, data: memoryview) -> int:
        self.about("write", self.names[handle])
        return super().write(handle, data)

    def sync(self, path: Path) -> None:
        self.about("sync", path)
        super().sync(path)

    def rename(self, source: Path, target: Path) -> None:
        self.about("rename", source, target)
        if source.name.startswith("step-"):
            self.old.add(target)
        super().rename(source, target)

    def link(self, source: Path, target: Path) -> None:
        self.about("link", target)
        super().link(source, target)

    def mkdir(self, path: Path) -> None:
        self.about("mkdir", path)
        super().mkdir(path)

    def chmod(self, path: Path, mode: int) -> None:
        self.about("chmod", path)
        super().chmod(path, mode)

    def unlink(self, path: Path) -> None:
        self.about("unlink", path)
        super().unlink(path)

    def discard(self, folder: Path) -> None:
        self.about("discard", folder)
        super().discard(folder)


def what(path: Path, target: Path | None, old: set[Path]) -> tuple[str, str]:
    """(kind, name) of the thing at a path: `saving`, `checkpoint 3`; `closing`, `receipts/train.json`."""
    for part in (path, *path.parents):
        if match := re.match(r"(\.tmp-|\.old-)?step-0*(\d+)", part.name):
            gone = part in old or (target is not None and part.name.startswith("step-"))
            file = f" {path.name}" if path != part else ""
            return "saving", f"{'old checkpoint' if gone else 'checkpoint'} {match[2]}{file}"
    name = plain(path)
    if "checkpoints" in path.parts:
        return "saving", name
    return "closing", f"{path.parent.name}/{name}" if path.parent.name in ("receipts", "adapter") else name


def plain(path: Path) -> str:
    """A name without what makes it unique: `.tmp-best.json-1a2b3c4d` is best.json."""
    match = re.fullmatch(r"\.(?:tmp|old)-(.+)-[0-9a-f]{8}", path.name)
    return match[1] if match else path.name


def watched(engine: Any, state: Any, strike: Callable[[str, str], None], seen: Path) -> None:
    """Have the engine tell of its micro-batches, and write the rows of each step into `seen`."""
    counts: Counter[str] = Counter()
    step, loss, name = engine.step, engine.loss, next((name for name in MICRO if hasattr(engine, name)), None)
    micro = name and getattr(engine, name)
    now = ["computing"]

    def stepping(plan: Any, lr: float) -> Any:
        with seen.open("a") as file:
            file.write(f"{state.step + 1} {sorted(example.row for example in plan.examples)}\n")
        now[0] = "computing"
        counts.clear()
        if micro is None:
            told()
        return step(plan, lr)

    def measuring(plan: Any) -> Any:
        now[0] = "evaluating"
        counts.clear()
        if micro is None:
            told()
        return loss(plan)

    def told() -> None:
        counts[now[0]] += 1
        place = state.step + 1 if now[0] == "computing" else state.step
        strike(now[0], f"{now[0]} {place}.{counts[now[0]]}")

    def forward(*args: Any) -> Any:
        told()
        return micro(*args)

    engine.step, engine.loss = stepping, measuring
    if name:
        setattr(engine, name, forward)
