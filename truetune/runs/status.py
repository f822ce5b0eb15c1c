"""status.json: what a run is doing, for everybody who watches it. Only the run itself writes it.

Heartbeats replace the file without fsync: after a power cut it may be missing or empty, which reads as interrupted.
"""

from __future__ import annotations

import os
import socket
import time
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from truetune.runs import durable, jsonfile

if TYPE_CHECKING:
    from truetune.runs.run import Run

ENDED = ("stopped", "finished", "failed")
RESUMABLE = ("created", "stopped", "interrupted", "failed")


@dataclass(frozen=True)
class Status:
    """Times are seconds since 1970. `interrupted` is never written: it is what `running` means without its process."""

    state: str = "created"
    """created, running, stopped, finished, failed, or (on reading) interrupted."""
    pid: int | None = None
    process_start: float | None = None
    """When the process started, in seconds after the machine did: a pid that was given out again is not taken for it,
    and a changed clock does not matter."""
    host: str = ""
    inode: int = 0
    """Of the run's folder: a copy of it, made while the run went on, is not what that process works on."""
    order: int = 0
    """Higher than that of every run that was known when this one was made: clocks may be wrong."""
    created: float = 0.0
    started: float | None = None
    heartbeat: float | None = None
    step: int = 0
    steps: int | None = None
    epoch: float = 0.0
    figures: dict[str, float | None] = field(default_factory=dict)
    """The newest loss, eval_loss, lr, tokens_per_second, …; None where a figure is not a number."""
    error: dict[str, Any] | None = None
    """code, message, where, hint of what ended the run."""
    finished: float | None = None

    @classmethod
    def begin(cls, folder: Path, order: int = 0) -> None:
        """The first status of a run that is being created in `folder`."""
        (folder / "status.json").write_bytes(jsonfile.dumps(cls(created=time.time(), order=order).to_json()))

    @classmethod
    def read(cls, run: Run) -> Status:
        """The status now; whether the process lives is asked of this machine, and believed of another one."""
        status = cls._stored(run)
        if status is None:
            return cls(state="interrupted", created=(run.folder / "resolved.json").stat().st_mtime)
        if status.state == "running" and status.host == socket.gethostname() and not _alive(status, run.folder):
            return replace(status, state="interrupted")
        return status

    @classmethod
    def update(cls, run: Run, **changes: Any) -> Status:
        """Write a new status: the old one with changes; `figures` are merged into the old figures.

        A running status names this process, whoever wrote the last one. A new state is written durably, and one that
        ends the run gets its time.
        """
        old = cls._stored(run) or cls()
        now, state = time.time(), changes.get("state", old.state)
        given = {"heartbeat": now} | changes | {"figures": old.figures | changes.get("figures", {})}
        if state == "running":
            given = _process(run.folder) | {"started": old.started or now, "finished": None, "error": None} | given
        elif state in ENDED:
            given = {"finished": now} | given
        new = replace(old, **given)
        durable.write_json(run.folder / "status.json", new.to_json(), sync=state != old.state)
        return new

    @classmethod
    def order_of(cls, folder: Path) -> int:
        """Of the run in this folder; 0 where it has lost its status."""
        try:
            return int((jsonfile.parse((folder / "status.json").read_bytes()) or {}).get("order", 0))
        except (OSError, TypeError, ValueError):
            return 0

    @classmethod
    def _stored(cls, run: Run) -> Status | None:
        try:
            stored = jsonfile.parse((run.folder / "status.json").read_bytes())
        except OSError:
            return None
        if stored is None:
            return None
        known = {item.name for item in fields(cls)}
        return cls(**{name: value for name, value in stored.items() if name in known})

    def to_json(self) -> dict[str, Any]:
        return {"schema": 1} | asdict(self)

    @property
    def resumable(self) -> bool:
        return self.state in RESUMABLE


def _process(folder: Path) -> dict[str, Any]:
    place = {"host": socket.gethostname(), "inode": folder.stat().st_ino}
    return {"pid": os.getpid(), "process_start": _start(psutil.Process())} | place


def _start(process: psutil.Process) -> float:
    """Seconds after boot: psutil adds the boot time, which moves with the clock."""
    return float(round(process.create_time() - psutil.boot_time(), 2))


def _alive(status: Status, folder: Path) -> bool:
    if status.pid is None or (status.inode and status.inode != folder.stat().st_ino):
        return False
    try:
        process = psutil.Process(status.pid)
        return process.status() != psutil.STATUS_ZOMBIE and abs(_start(process) - (status.process_start or 0)) < 1.5
    except psutil.Error:
        return False
