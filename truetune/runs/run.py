"""A run is a folder. This is its handle: create, open, lock, stop, log.

train.yml      what the user wrote, byte for byte
resolved.json  every value of the run; the file that makes a folder a run
changes.json   {changes: [{key: [before, after]}, …], resolved, train_yml}: what resumes changed, and what holds since
env.json       versions, device, seed, `here` (where it was started), `folder` (where it was made), `source`: {path,
               sha256} of its train.yml, and `base`: the model as it was then, {name, revision, folder, files
               {relative: sha256}}
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from truetune import paths
from truetune.errors import InputError, UsageError
from truetune.runs import durable, index, jsonfile, moved
from truetune.runs.status import Status

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
"""Names of runs, models and adapters, to be matched in full; nothing that fits can leave its folder."""
CHANGES = "changes.json"
_LETTERS = "23456789abcdefghjkmnpqrstuvwxyz"


class Run:
    """A run on disk. `folder` is absolute; nothing is read before it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()

    @classmethod
    def create(
        cls, folder: Path, *, train_yml: bytes, resolved: dict[str, Any], env: dict[str, Any], listed: bool = True
    ) -> Run:
        """Make a run folder, whole or not at all, and remember where it is, if it is to be listed. Raises UsageError
        where the folder is in use."""
        refuse_used(folder)
        order = next_order() if listed else 0

        def fill(aside: Path) -> None:
            (aside / "train.yml").write_bytes(train_yml)
            (aside / "resolved.json").write_bytes(jsonfile.dumps(resolved))
            (aside / "env.json").write_bytes(jsonfile.dumps(env))
            Status.begin(aside, order)

        durable.place(folder, fill)
        run = cls(folder)
        if listed:
            index.remember(run.folder)
        return run

    @classmethod
    def open(cls, folder: Path) -> Run:
        """The run in this folder. Raises InputError where there is none."""
        if not is_run(folder):
            raise InputError(
                "there is no run in this folder",
                code="run.missing",
                where=str(folder),
                hint="a run folder holds resolved.json; `ft runs list` shows the runs there are",
            )
        return cls(folder)

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def train_yml(self) -> bytes:
        """What the user wrote. Raises InputError where the file is gone."""
        try:
            return (self.folder / "train.yml").read_bytes()
        except OSError as error:
            raise InputError(
                "the run has lost its train.yml",
                code="run.unreadable",
                where=str(self.folder),
                hint="restore it from a copy, or start a new run",
            ) from error

    @cached_property
    def resolved(self) -> dict[str, Any]:
        """Every value: as the run was started, or as the last resume that changed some has it. The folders of train.yml
        and of a model on this machine are where they are now."""
        values: dict[str, Any] = self._changed.get("resolved") or jsonfile.load(self.folder / "resolved.json")
        if (model := values.get("model")) and model.get("folder"):
            values = values | {"model": model | {"folder": self.moved(model["folder"])}}
        if folder := values.get("folder"):
            values = values | {"folder": self.moved(folder)}
        return values

    def moved(self, path: str) -> str:
        """A full path that the run has recorded: the first of its places where something is, else as it was."""
        return path if Path(path).exists() else next(filter(os.path.exists, self.places(path)), path)

    def places(self, path: str) -> list[str]:
        """Where a full path that the run has recorded may be by now: see `truetune.runs.moved`."""
        with suppress(InputError):  # its env.json is gone or damaged, which is said where it is needed
            return [*moved.places(path, self.env.get("folder"), self.folder)]
        return [path]

    @property
    def changes(self) -> list[dict[str, list[Any]]]:
        """{key: [before, after]} of each resume that changed something."""
        return list(self._changed.get("changes", ()))

    @property
    def train_yml_now(self) -> bytes:
        """The train.yml of the start, or of the last resume that changed something."""
        text: str | None = self._changed.get("train_yml")
        return self.train_yml if text is None else text.encode()

    def change(self, fields: dict[str, list[Any]], resolved: dict[str, Any], train_yml: bytes) -> None:
        """Let other values hold from now on; what the run was started with stays beside them."""
        body = {"changes": [*self.changes, fields], "resolved": resolved, "train_yml": train_yml.decode()}
        durable.write_json(self.folder / CHANGES, {"schema": 1} | body)
        for name in ("_changed", "resolved"):
            self.__dict__.pop(name, None)

    @cached_property
    def _changed(self) -> dict[str, Any]:
        path = self.folder / CHANGES
        return jsonfile.load(path) if path.exists() else {}

    @cached_property
    def env(self) -> dict[str, Any]:
        return jsonfile.load(self.folder / "env.json")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run: one process writes to it. Raises UsageError where another one does.

        What a crash of the last holder left half written is cleared. The kernel drops the lock when the process dies,
        however it dies.
        """
        with durable.explained(self.folder / "lock"):
            handle = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise self._in_use(os.read(handle, 20).decode(errors="replace").strip()) from None
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
            for folder in (self.folder, self.folder / "checkpoints", self.folder / "receipts"):
                durable.sweep(folder)
            yield
        finally:
            os.close(handle)

    def _in_use(self, pid: str) -> UsageError:
        return UsageError(
            f"process {pid or 'unknown'} is working on this run",
            code="run.in_use",
            where=str(self.folder),
            hint=f"wait for it, or stop it with `ft runs stop {self.id}`",
        )

    def request_stop(self) -> None:
        """Ask the run to stop after its current step."""
        with durable.explained(self.folder / "stop"):
            (self.folder / "stop").touch()

    def stop_requested(self) -> bool:
        return (self.folder / "stop").exists()

    def clear_stop(self) -> None:
        (self.folder / "stop").unlink(missing_ok=True)

    def log(self, text: str) -> None:
        """Add lines to log.txt, each with the time (UTC)."""
        stamp = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
        lines = "".join(f"{stamp} {line}\n" for line in text.splitlines())
        durable.append(self.folder / "log.txt", lines.encode())

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"


def is_run(folder: Path) -> bool:
    try:
        return (folder / "resolved.json").is_file()
    except OSError:  # a name longer than the file system takes
        return False


def next_order() -> int:
    """One more than any run has that is known here: what is newer is told by it, and not by a clock."""
    folders = [*paths.runs().glob("*"), *index.made_here()]
    return 1 + max((Status.order_of(folder) for folder in folders if is_run(folder)), default=0)


def new_id(*parts: str, now: datetime) -> str:
    """`20261121-143005-starter-support-x7k2`: when, of what, and four letters that keep two apart."""
    words = [now.strftime("%Y%m%d-%H%M%S"), *filter(None, map(slug, parts))]
    name = "-".join(words)[:59].rstrip("-._")
    return f"{name}-{''.join(secrets.choice(_LETTERS) for _ in range(4))}"


def slug(text: str) -> str:
    """The last part of a path or hub id, in the letters of a name, at most 24 of them."""
    last = text.rstrip("/").rsplit("/", 1)[-1]
    return re.sub(r"[^a-z0-9.]+", "-", last.lower())[:24].strip("-.")


def refuse_used(folder: Path) -> None:
    """A new run needs a new or an empty folder. Raises UsageError `run.exists`, `run.folder_in_use`."""
    if is_run(folder):
        raise UsageError(
            "this folder already holds a run",
            code="run.exists",
            where=str(folder),
            hint="go on with it by `--resume`, or choose another output.dir",
        )
    if folder.is_symlink() or (folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))):
        raise UsageError(
            "this folder is in use: it holds something else",
            code="run.folder_in_use",
            where=str(folder),
            hint="choose another output.dir: a run needs a new or an empty folder",
        )
