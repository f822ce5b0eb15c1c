"""A disk that fails at its n-th operation, or has room for so many bytes; and a process that dies there."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import small_run

from truetune.errors import ResourceError
from truetune.runs import durable
from truetune.runs.disk import Disk
from truetune.runs.run import Run

ACTIONS = ("killed before", "killed after", "torn", "short", "EIO", "ENOSPC")


class Killed(BaseException):
    """The process is dead: nothing that it still does reaches the disk."""


class Failing(Disk):
    """Does `action` at operation `moment` (1, 2, …); `room` is how many bytes fit in all, None = any number."""

    def __init__(self, moment: int = 0, action: str = "", room: int | None = None) -> None:
        self.moment, self.action, self.room = moment, action, room
        self.count, self.dead, self.struck = 0, False, ""
        self.done: list[tuple[str, str]] = []
        """What was asked so far: the operation, and the name of its file."""
        self.names: dict[int, str] = {}
        self.safe: dict[int, int] = {}
        """Bytes of a file (by its inode: files are linked, and folders renamed) that were synced."""
        self.counting = threading.Lock()

    def through(self, name: str, *args: Any) -> Any:
        """The operation, with what happens at this one."""
        if self.dead:
            raise Killed
        with self.counting:  # checkpoints are written by a thread of their own
            self.count += 1
            struck = self.count == self.moment
            self.done.append((name, args[0].name if isinstance(args[0], Path) else self.names.get(args[0], "")))
        if not struck:
            return getattr(super(), name)(*args)
        self.struck = name
        if self.action in ("EIO", "ENOSPC"):
            if name == "discard":  # which puts up with errors
                return None
            self.lose(name, *args)
            raise OSError(getattr(errno, self.action), os.strerror(getattr(errno, self.action)))
        if self.action in ("torn", "short") and name == "write":
            handle, data = args
            done = super().write(handle, data[: len(data) // 2 or 1])
            if self.action == "short":
                return done
        elif self.action == "killed after":
            getattr(super(), name)(*args)
        elif self.action == "short":
            return getattr(super(), name)(*args)
        self.dead = True
        raise Killed

    def lose(self, name: str, *args: Any) -> None:
        """A failed fsync marks the lost pages as clean: what was new in the file is gone, and the next fsync succeeds
        (Rebello et al., ATC 2020)."""
        if name == "sync" and args[0].is_file():
            data, safe = args[0].read_bytes(), self.safe.get(args[0].stat().st_ino, 0)
            args[0].write_bytes(data[:safe] + bytes(len(data) - safe))

    def create(self, path: Path) -> int:
        handle = int(self.through("create", path))
        self.safe.pop(os.fstat(handle).st_ino, None)  # of a file that is gone
        self.names[handle] = path.name
        return handle

    def extend(self, path: Path) -> int:
        handle = int(self.through("extend", path))
        self.names[handle] = path.name
        return handle

    def write(self, handle: int, data: memoryview) -> int:
        if self.room is not None and len(data) > self.room:
            taken = super().write(handle, data[: self.room]) if self.room else 0
            self.room = 0
            if taken:
                return taken
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done = int(self.through("write", handle, data))
        self.room = None if self.room is None else self.room - done
        return done

    def flush(self, handle: int) -> None:
        self.through("flush", handle)

    def sync(self, path: Path) -> None:
        if not path.exists():  # that is an answer, not an operation
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        self.through("sync", path)
        self.safe[path.stat().st_ino] = path.stat().st_size

    def truncate(self, file: Path | int, size: int) -> None:
        self.through("truncate", file, size)

    def rename(self, source: Path, target: Path) -> None:
        self.through("rename", source, target)

    def link(self, source: Path, target: Path) -> None:
        self.through("link", source, target)

    def mkdir(self, path: Path) -> None:
        self.through("mkdir", path)

    def chmod(self, path: Path, mode: int) -> None:
        self.through("chmod", path, mode)

    def unlink(self, path: Path) -> None:
        self.through("unlink", path)

    def discard(self, folder: Path) -> None:
        self.through("discard", folder)


def operations(folder: Path) -> list[tuple[str, str]]:
    """The operations of the undisturbed run, each with the name of its file."""
    disk = Failing()
    attempt(folder, disk)
    return disk.done


def attempt(folder: Path, disk: Failing) -> tuple[int, str]:
    """Train on this disk; returns (the last step that was reported as saved, how it ended)."""
    saved, before = [-1], (durable.disk, durable.LINKED)
    durable.disk, durable.LINKED = disk, 1000

    def heard(kind: str, figures: dict[str, Any]) -> None:
        if kind == "checkpoint":
            saved.append(figures["step"])

    try:
        small_run.start(folder, heard)
        return saved[-1], "done"
    except Killed:
        return saved[-1], "killed"
    except ResourceError as error:
        return saved[-1], error.code
    finally:
        durable.disk, durable.LINKED = before


def wrong(folder: Path, saved: int, end: str, expected: small_run.Result) -> list[str]:
    """What is wrong after a run that failed: a resume begins at what was saved or later, and ends as the straight."""
    if not (folder / "resolved.json").exists():
        return [] if saved < 0 else ["the run is gone"]
    run, said = Run(folder), list[str]()
    checkpoint = small_run.found(run, said.append)
    step = checkpoint.step if checkpoint else -1
    found = said + ([f"step {saved} was saved, {step} is found"] if step < saved else [])
    try:
        result = small_run.go_on(run, said.append)
    except Exception as error:
        return [*found, f"the resume fails: {type(error).__name__}: {error}"]
    left = [path.name for path in folder.rglob(".*")]
    return (
        found + ([f"left behind: {left}"] if left else []) + ([] if result == expected else [f"after {end}: differs"])
    )
