"""Bugs that a writer of checkpoints may have, each put in by hand; and the hunts that must find them."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import damaged
import failing
import numpy as np
import power
import pytest
import small_run
from recorded import Recorder

from truetune.data.steps import Steps
from truetune.engines.base import Snapshot
from truetune.runs import durable, jsonfile
from truetune.runs.checkpoints import Checkpoints
from truetune.runs.disk import Disk
from truetune.runs.run import Run
from truetune.train.saver import Saver
from truetune.train.state import State

Patch = pytest.MonkeyPatch
Bug = Callable[[Patch], None]
Hunt = Callable[[Path, small_run.Result], Iterator[str]]


def cuts(room: Path, expected: small_run.Result) -> Iterator[str]:
    """Power cuts."""
    (room / "rec").mkdir()
    recording = power.record(room / "rec")
    for moment, acknowledged, tree in power.disks(recording, each=6, seed=1):
        yield from (f"{moment}: {text}" for text in power.wrong(recording, acknowledged, tree, room / "cut"))


def dying(action: str, operation: str, name: str) -> Hunt:
    """One action at each operation of a kind on files of such names."""

    def hunt(room: Path, expected: small_run.Result) -> Iterator[str]:
        asked = failing.operations(room / "all")
        moments = [place for place, (kind, file) in enumerate(asked, 1) if kind == operation and re.match(name, file)]
        for moment in moments:
            folder = room / str(moment)
            saved, end = failing.attempt(folder, failing.Failing(moment, action))
            yield from failing.wrong(folder, saved, end, expected)

    return hunt


resumes = dying("killed before", "create", "optimizer")
"""Kills between two checkpoints, some steps after the first."""


def replacing(room: Path, expected: small_run.Result) -> Iterator[str]:
    """Kills at every operation while a checkpoint takes the place of one of the same step."""
    for moment in range(1, 40):
        run = Run.create(room / str(moment), train_yml=b"", resolved={"schema": 1}, env={})
        Checkpoints(run).save(1, small_run.Small().save, {"version": 0})
        real, durable.disk = durable.disk, failing.Failing(moment, "killed before")
        try:
            Checkpoints(run).save(1, small_run.Small().save, {"version": 1})
        except failing.Killed:
            pass
        finally:
            durable.disk = real
        if not small_run.found(run, lambda text: None):
            yield f"nothing is left after operation {moment}"


def decay(room: Path, expected: small_run.Result) -> Iterator[str]:
    """Bytes that change by themselves."""
    run = small_run.start(room / "run")
    yield from (str(each) for each in damaged.overlooked(run, 100, seed=1))


def unsynced(forgotten: Callable[[Path], bool]) -> Bug:
    """An fsync that is left out."""

    def seed(patch: Patch) -> None:
        real = Recorder.synced
        patch.setattr(Recorder, "synced", lambda self, path: None if forgotten(path) else real(self, path))

    return seed


def aside(path: Path) -> bool:
    return path.name.startswith(".tmp-step-")


def replaced(owner: Any, name: str, value: Any) -> Bug:
    return lambda patch: patch.setattr(owner, name, value)


def manifest_last_of_all(
    target: Path, fill: Callable[[Path], None], *, replace: bool = False, like: Path | None = None
) -> None:
    durable.place(target, fill, replace=replace)
    files = {path.name: durable._entry(path) for path in sorted(target.iterdir())}
    durable.create(target / durable.MANIFEST, jsonfile.dumps({"schema": 1, "files": files}), sync=True)


def in_place(target: Path, fill: Callable[[Path], None], *, replace: bool = False, like: Path | None = None) -> None:
    durable.disk.discard(target)
    durable.folder(target)
    fill(target)
    durable._sync_files(target)
    manifest = jsonfile.dumps({"schema": 1, "files": durable._entries(target)})
    durable.create(target / durable.MANIFEST, manifest, sync=True)
    durable.disk.sync(target)


def cleared_first(folder: Path, target: Path) -> None:
    durable.disk.discard(target)
    durable.disk.rename(folder, target)
    durable.disk.sync(target.parent)


def newest_by_clock(self: Checkpoints) -> list[Any]:
    return sorted(LIST(self), key=lambda each: each.folder.stat().st_mtime)


LIST = Checkpoints.list


def by_size(folder: Path) -> list[str]:
    promised = jsonfile.load(folder / durable.MANIFEST)["files"]
    there = {path.name: path.stat().st_size for path in folder.iterdir() if path.name != durable.MANIFEST}
    return [name for name in promised.keys() | there.keys() if promised.get(name, {}).get("bytes") != there.get(name)]


def one_write(handle: int, data: bytes) -> None:
    durable.disk.write(handle, memoryview(data))


def stubborn(self: failing.Failing, path: Path) -> None:
    try:
        SYNC(self, path)
    except OSError:
        SYNC(self, path)


SYNC = failing.Failing.sync


def reused_name(patch: Patch) -> None:
    patch.setattr(durable, "_aside", lambda path, kind="tmp": path.parent / f".{kind}-{path.name}")
    patch.setattr(durable, "sweep", lambda folder: None)
    patch.setattr(Disk, "mkdir", lambda self, path: path.mkdir(exist_ok=True))
    patch.setattr(Disk, "create", lambda self, path: os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644))


def forgets(part: str) -> Bug:
    """A resume that starts a part of the engine anew."""

    def seed(patch: Patch) -> None:
        real = small_run.Small.restore

        def restore(self: small_run.Small, folder: Path) -> None:
            kept = getattr(self, part)
            real(self, folder)
            setattr(self, part, kept if part != "draws" else np.random.Generator(np.random.PCG64(5)))

        patch.setattr(small_run.Small, "restore", restore)

    return seed


def starts_rows_anew(patch: Patch) -> None:
    """The order of the rows goes on from its beginning: it is asked for step 0 after every resume."""
    real, from_json = Steps.indices, State.from_json
    begun = [0]

    def resumed(body: dict[str, Any]) -> State:
        begun[0] = body["step"]
        return from_json(body)

    patch.setattr(State, "from_json", resumed)
    patch.setattr(Steps, "indices", lambda self, step: real(self, max(0, step - begun[0])))


def without(*names: str) -> Bug:
    """Parts of the loop's state that a checkpoint lacks."""

    def seed(patch: Patch) -> None:
        real = State.to_json
        fresh = real(State(token_budget=64))
        patch.setattr(State, "to_json", lambda self: real(self) | {name: fresh[name] for name in names})

    return seed


def ignores_best(self: Checkpoints, keep: int, best_step: int | None = None) -> None:
    COLLECT(self, keep, None)


COLLECT = Checkpoints.collect


class Slow(Disk):
    """Takes its time for a checkpoint, and knows how many are being written."""

    def __init__(self) -> None:
        self.writing, self.most = set[Path](), 0

    def mkdir(self, path: Path) -> None:
        if aside(path):
            self.writing.add(path)
            self.most = max(self.most, len(self.writing))
        super().mkdir(path)

    def sync(self, path: Path) -> None:
        if aside(path):
            time.sleep(0.02)  # many steps of the small run
        super().sync(path)

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        self.writing.discard(source)


def beside(room: Path, expected: small_run.Result) -> Iterator[str]:
    """A disk so slow that every save is still at work when the next one is due: one at a time, each acknowledged after
    its rename, and each as the state was."""
    disk = Slow()
    real, durable.disk = durable.disk, disk

    def heard(kind: str, figures: dict[str, Any]) -> None:
        if kind == "checkpoint" and not list(room.glob(f"run/checkpoints/step-{figures['step']:06d}")):
            early.append(figures["step"])

    early = list[int]()
    try:
        run = small_run.start(room / "run", heard)
    finally:
        for thread in threading.enumerate():
            if thread.name.startswith("save-step-"):
                thread.join()
        durable.disk = real
    yield from ([f"{disk.most} saves at once"] if disk.most > 1 else [])
    yield from (f"step {step} is acknowledged before it is there" for step in early)
    kept = Checkpoints(run).list()[0]
    Checkpoints(run).rewind(kept.step, lambda text: None)
    yield from [] if small_run.go_on(run, lambda text: None) == expected else ["the resumed run ends otherwise"]


def acknowledged_at_once(patch: Patch) -> None:
    """What is being written counts as saved; before the next one begins it is waited for."""

    def start(self: Saver, step: int, work: Callable[[], None]) -> None:
        self.join()
        START(self, step, work)
        self.told = step  # type: ignore[attr-defined]

    def wait(self: Saver) -> int | None:
        told, self.told = getattr(self, "told", None), None  # type: ignore[attr-defined]
        return told

    patch.setattr(Saver, "start", start)
    patch.setattr(Saver, "wait", wait)


def never_waits(self: Saver) -> int | None:
    if not self.ended():
        return None
    return WAIT(self)


START, WAIT = Saver.start, Saver.wait


def not_copied(self: small_run.Small) -> Snapshot:
    """The files are made of what the engine holds when they are written."""

    def fill(folder: Path) -> None:
        time.sleep(0.02)
        SNAPSHOT(self).write(folder)

    return Snapshot((fill,))


SNAPSHOT = small_run.Small.snapshot

BUGS: dict[str, tuple[Bug, Hunt]] = {
    "files not synced": (unsynced(lambda path: aside(path.parent) and path.name != durable.MANIFEST), cuts),
    "manifest not synced": (unsynced(lambda path: path.name == durable.MANIFEST), cuts),
    "the new folder not synced": (unsynced(aside), cuts),
    "the rename not synced": (unsynced(lambda path: path.name == "checkpoints"), cuts),
    "the folder of checkpoints not synced": (unsynced(lambda path: path.name == "run"), cuts),
    "the log not synced": (unsynced(lambda path: path.name == "metrics.jsonl"), cuts),
    "manifest after the rename": (
        replaced(durable, "commit", manifest_last_of_all),
        dying("killed before", "create", "manifest"),
    ),
    "written in place": (replaced(durable, "commit", in_place), resumes),
    "the old one removed before the new one": (replaced(durable, "_install", cleared_first), replacing),
    "newest by mtime": (replaced(Checkpoints, "list", newest_by_clock), cuts),
    "nothing checked": (replaced(durable, "check", lambda folder: []), decay),
    "only sizes checked": (replaced(durable, "check", by_size), decay),
    "a failed fsync tried again": (
        replaced(failing.Failing, "sync", stubborn),
        dying("EIO", "sync", "adapter|optimizer"),
    ),
    "a short write ignored": (replaced(durable, "_write_all", one_write), dying("short", "write", "state|optimizer")),
    "a name aside used again": (reused_name, dying("torn", "write", "optimizer")),
    "RNG forgotten": (forgets("draws"), resumes),
    "optimizer forgotten": (forgets("momentum"), resumes),
    "parameters forgotten": (forgets("weights"), resumes),
    "rows from the beginning": (starts_rows_anew, resumes),
    "the best forgotten": (without("best_loss", "best_step"), resumes),
    "counters forgotten": (without("examples", "supervised"), resumes),
    "the best collected": (replaced(Checkpoints, "collect", ignores_best), resumes),
    "acknowledged before it is written": (acknowledged_at_once, beside),
    "acknowledged before the fsync": (acknowledged_at_once, cuts),
    "two saves in flight": (replaced(Saver, "wait", never_waits), beside),
    "not copied before the next step": (replaced(small_run.Small, "snapshot", not_copied), beside),
}
