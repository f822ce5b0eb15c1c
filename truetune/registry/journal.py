"""The registry's truth: `registry.jsonl` in home, one event a line, only ever added to.

    {"event": "register", "time", "name", "version", "run", "folder", "content", …}     what `entry.describe` says
    {"event": "promote", "time", "name", "version", "stage", "note"}
    {"event": "rename", "time", "name", "to"}
    {"event": "remove", "time", "name", "version"}

Whoever adds an event holds the lock, so that it is decided on what all earlier ones say. An event stands on the disk
before its verb says that it happened; a line that a crash left half written is cut off by the next one.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from truetune import paths
from truetune.errors import InputError
from truetune.runs import durable, jsonfile

Event = dict[str, Any]


class Journal:
    """`registry.jsonl`."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or paths.home() / "registry.jsonl"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """One process at a time; others wait. The kernel drops the lock of a process that dies."""
        durable.folder(self.path.parent)
        with durable.explained(self.path):
            handle = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            self._mend()
            yield
        finally:
            os.close(handle)

    def add(self, event: Event) -> None:
        """Under the lock. Raises ResourceError where the disk takes no more."""
        durable.append(self.path, jsonfile.line(event))
        durable.settle(self.path)

    def size(self) -> int:
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def read(self, start: int = 0) -> Iterator[tuple[int, Event]]:
        """(where its line ends, event) from the byte `start` on; a half-written last line is left out.

        Raises InputError `registry.damaged` for a line that is no event.
        """
        try:
            stream = self.path.open("rb")
        except FileNotFoundError:
            return
        with stream:
            stream.seek(start)
            for line in stream:
                if not line.endswith(b"\n"):
                    return
                start += len(line)
                yield start, self._event(line, start - len(line))

    def line_before(self, end: int) -> bytes:
        """The line that ends at this byte, without reading what is before it; empty at the start."""
        try:
            with self.path.open("rb") as stream:
                begin, found = end, b""
                while begin > 0 and found.count(b"\n", 0, len(found) - 1) == 0:
                    begin = max(0, begin - 4096)
                    stream.seek(begin)
                    found = stream.read(end - begin)
        except FileNotFoundError:
            return b""
        return found[found.rfind(b"\n", 0, len(found) - 1) + 1 :]

    def _event(self, line: bytes, at: int) -> Event:
        event = jsonfile.parse(line)
        if event is None or not isinstance(event.get("event"), str):
            raise InputError(
                "the registry is damaged: a line is no event",
                code="registry.damaged",
                where=f"{self.path}, byte {at}",
                hint="Take the line out; `ft adapters add RUN` registers a run again.",
            )
        return event

    def _mend(self) -> None:
        """Cut off a line that a crash left half written."""
        size = self.size()
        if size and not (last := self.line_before(size)).endswith(b"\n"):
            durable.truncate(self.path, size - len(last))
