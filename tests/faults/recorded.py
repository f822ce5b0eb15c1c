"""What a run does to its disk, recorded; and every disk that a power cut may leave behind.

The model is the weakest that systems promise (Pillai et al., OSDI 2014): a file's bytes are safe once it was synced, a
name once its folder was; before, any part of them may be there: the old bytes, none, the first half, zeros, in any
order. Only a rename is one step.
"""

from __future__ import annotations

import itertools
import os
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

from truetune.runs.disk import Disk


@dataclass
class Node:
    """A file (`data`), or a folder (`names`)."""

    number: int
    data: bytes | None = None
    names: dict[str, Node] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """add, drop: a name of a folder; move: from one folder to another; data: a file's new bytes; sync; ack."""

    kind: str
    node: int = 0
    """The folder of add, drop and move's target; the file of data; either of sync."""
    name: str = ""
    other: int = 0
    """The node that is added; the folder that is moved from."""
    old: str = ""
    data: bytes = b""
    note: Any = None


def alone(operation: Callable[..., Any]) -> Callable[..., Any]:
    """One operation at a time: the checkpoints are written by a thread of their own."""

    @wraps(operation)
    def locked(self: Recorder, *args: Any) -> Any:
        with self.lock:
            return operation(self, *args)

    return locked


class Recorder(Disk):
    """Writes down every operation below `root`, and by comparing what others wrote there in between."""

    def __init__(self, root: Path) -> None:
        self.root, self.entries, self.numbers = root, list[Entry](), itertools.count(1)
        self.lock = threading.RLock()
        self.tree, self.handles = Node(0), dict[int, Path]()

    @alone
    def acknowledge(self, note: Any) -> None:
        self.look()
        self.entries.append(Entry("ack", note=note))

    @alone
    def create(self, path: Path) -> int:
        handle = super().create(path)
        self.handles[handle] = path
        return handle

    @alone
    def extend(self, path: Path) -> int:
        handle = super().extend(path)
        self.handles[handle] = path
        return handle

    @alone
    def write(self, handle: int, data: memoryview) -> int:
        done = super().write(handle, data)
        self.look()
        return done

    @alone
    def flush(self, handle: int) -> None:
        self.synced(self.handles[handle])

    @alone
    def sync(self, path: Path) -> None:
        path.stat()  # raises where it is missing
        self.synced(path)

    def synced(self, path: Path) -> None:
        self.look()
        if node := self.at(path):
            self.entries.append(Entry("sync", node.number))

    @alone
    def rename(self, source: Path, target: Path) -> None:
        self.look()
        super().rename(source, target)
        if (before := self.at(source.parent)) and (after := self.at(target.parent)):
            after.names[target.name] = before.names.pop(source.name)
            self.entries.append(Entry("move", after.number, target.name, before.number, source.name))
        self.look()

    @alone
    def link(self, source: Path, target: Path) -> None:
        self.look()
        super().link(source, target)
        folder, node = self.at(target.parent), self.at(source)
        if folder and node:
            folder.names[target.name] = node
            self.entries.append(Entry("add", folder.number, target.name, node.number))

    @alone
    def unlink(self, path: Path) -> None:
        self.look()
        super().unlink(path)
        self.look()

    @alone
    def discard(self, folder: Path) -> None:
        super().discard(folder)

    def at(self, path: Path) -> Node | None:
        if not path.is_relative_to(self.root):
            return None
        node: Node | None = self.tree
        for part in path.relative_to(self.root).parts:
            node = node.names.get(part) if node else None
        return node

    def look(self) -> None:
        """Note what changed since the last look."""
        self.compare(self.tree, self.root)

    def compare(self, node: Node, folder: Path) -> None:
        real = {entry.name: entry for entry in os.scandir(folder)}
        for name in [name for name in node.names if name not in real]:
            del node.names[name]
            self.entries.append(Entry("drop", node.number, name))
        for name, entry in sorted(real.items()):
            if name not in node.names:
                node.names[name] = Node(next(self.numbers), None if entry.is_dir() else b"")
                self.entries.append(Entry("add", node.number, name, node.names[name].number, note=entry.is_dir()))
            child = node.names[name]
            if child.data is None:
                self.compare(child, folder / name)
            elif (data := Path(entry.path).read_bytes()) != child.data:
                child.data = data
                self.entries.append(Entry("data", child.number, data=data))


Tree = dict[str, bytes | None]
"""Relative path -> bytes, None for a folder."""


def after_a_cut(entries: list[Entry], moment: int, draw: random.Random | None, *, all_lost: bool = False) -> Tree:
    """The disk when the power fails before entry `moment`. What was not synced is there as `draw` decides; without it,
    all of it is, or with `all_lost` none."""
    happened = entries[:moment]
    last_sync = {entry.node: place for place, entry in enumerate(happened) if entry.kind == "sync"}
    folders: dict[int, dict[str, int]] = {0: {}}
    for place, entry in enumerate(happened):
        if entry.kind not in ("add", "drop", "move"):
            continue
        safe = last_sync.get(entry.node, -1) > place
        if not (safe or (not all_lost and (draw is None or draw.random() < 0.5))):
            continue
        names = folders.setdefault(entry.node, {})
        if entry.kind == "add":
            names[entry.name] = entry.other
        elif entry.kind == "drop":
            names.pop(entry.name, None)
        elif entry.old in folders.get(entry.other, {}):
            names[entry.name] = folders[entry.other].pop(entry.old)
    files = {entry.other: b"" for entry in happened if entry.kind == "add"}
    kinds = {entry.other for entry in happened if entry.kind == "add" and entry.note}
    for number in files:
        files[number] = content(happened, number, last_sync.get(number, -1), draw, all_lost)
    return dict(named(folders, files, kinds, 0, ""))


def content(happened: list[Entry], number: int, synced: int, draw: random.Random | None, all_lost: bool) -> bytes:
    """A file's bytes: those that were synced, and of later ones whatever a disk may have taken."""
    writes = [
        (place, entry.data) for place, entry in enumerate(happened) if entry.kind == "data" and entry.node == number
    ]
    safe = next((data for place, data in reversed(writes) if place < synced), b"")
    loose = [data for place, data in writes if place > synced]
    if not loose or all_lost:
        return safe
    if draw is None:
        return loose[-1]
    new = draw.choice(loose)
    kept = len(safe) if new.startswith(safe) else 0  # what is appended leaves the synced bytes as they are
    cut = draw.randrange(kept, len(new) + 1)
    return draw.choice([safe, new, new[:cut], new[:kept] + bytes(len(new) - kept), new[:cut] + bytes(len(new) - cut)])


def named(
    folders: dict[int, dict[str, int]], files: dict[int, bytes], kinds: set[int], number: int, prefix: str
) -> Iterator[tuple[str, bytes | None]]:
    for name, child in folders.get(number, {}).items():
        if child in kinds:
            yield prefix + name, None
            yield from named(folders, files, kinds, child, f"{prefix}{name}/")
        else:
            yield prefix + name, files[child]


def lay_out(tree: Tree, root: Path) -> None:
    for name, data in tree.items():
        if data is None:
            (root / name).mkdir(parents=True, exist_ok=True)
        else:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
