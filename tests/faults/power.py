"""Power cuts in the recording of a run: what must be there afterwards, checked in as many disks as wanted."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import small_run
from recorded import Entry, Recorder, Tree, after_a_cut, lay_out

from truetune.errors import TrueTuneError
from truetune.runs import durable, jsonfile
from truetune.runs.checkpoints import Checkpoints
from truetune.runs.disk import Disk
from truetune.runs.metrics import Metrics
from truetune.runs.run import Run

LINKED = 1000
"""Bytes from which files are linked here: the run's are small."""


@dataclass
class Recording:
    """A run's operations, its result, and every manifest it wrote, by step."""

    entries: list[Entry]
    result: small_run.Result
    manifests: dict[str, set[bytes]] = field(default_factory=dict)
    bests: list[dict[str, Any]] = field(default_factory=list)


def record(root: Path) -> Recording:
    """Train in `root/run`. An acknowledgement says which checkpoint was reported as saved."""
    recorder, manifests, bests = Recorder(root), dict[str, set[bytes]](), list[dict[str, Any]]()

    def heard(kind: str, figures: dict[str, Any]) -> None:
        if kind == "checkpoint":
            for path in root.glob("run/checkpoints/step-*/manifest.json"):
                manifests.setdefault(path.parent.name, set()).add(path.read_bytes())
            bests.extend(filter(None, [Checkpoints(Run(root / "run")).best()]))
        if kind in ("created", "checkpoint"):
            recorder.acknowledge(figures.get("step", -1))

    before = durable.disk, durable.LINKED
    durable.disk, durable.LINKED = recorder, LINKED
    try:
        run = small_run.start(root / "run", heard)
    finally:
        durable.disk, durable.LINKED = before
    return Recording(recorder.entries, small_run.result(run), manifests, bests)


def disks(recording: Recording, each: int, seed: int) -> Iterator[tuple[int, int, Tree]]:
    """(moment, last acknowledged step, disk): at every moment since the run was made, in any order, `each` different
    disks or as many as there are among three times as many draws."""
    draw, acknowledged = random.Random(seed), None
    moments = []
    for moment in range(len(recording.entries) + 1):
        before = recording.entries[moment - 1] if moment else None
        acknowledged = before.note if before and before.kind == "ack" else acknowledged
        if acknowledged is not None:
            moments.append((moment, acknowledged))
    draw.shuffle(moments)
    for moment, saved in moments:
        drawn = [after_a_cut(recording.entries, moment, None, all_lost=lost) for lost in (True, False)]
        drawn += [after_a_cut(recording.entries, moment, draw) for _ in range(3 * each)]
        different = {tuple(sorted(tree.items(), key=lambda item: item[0])): tree for tree in drawn}
        for tree in list(different.values())[:each]:
            yield moment, saved, tree


def wrong(recording: Recording, acknowledged: int, tree: Tree, room: Path, *, whole: bool = False) -> list[str]:
    """What a resume finds wrong on this disk; with `whole` it also goes on to the end."""
    shutil.rmtree(room, ignore_errors=True)
    lay_out(tree, room)
    for place, folder in enumerate(sorted(room.glob("run/checkpoints/step-*"), reverse=True)):
        os.utime(folder, (place, place))  # clocks are wrong: the newest is not the one that looks newest
    run, said = Run(room / "run"), list[str]()
    try:
        return list(_wrong(recording, acknowledged, run, said)) + said + (_end(recording, run) if whole else [])
    except (TrueTuneError, OSError, ValueError, KeyError) as error:
        return [f"{type(error).__name__}: {error}"]


def _wrong(recording: Recording, acknowledged: int, run: Run, said: list[str]) -> Iterator[str]:
    checkpoint = small_run.found(run, said.append)
    step = checkpoint.step if checkpoint else -1
    if step < acknowledged:
        yield f"step {acknowledged} was reported as saved, and {step} is found"
    if checkpoint:
        manifest = (checkpoint.folder / durable.MANIFEST).read_bytes()
        if manifest not in recording.manifests.get(checkpoint.folder.name, ()):
            yield f"{checkpoint.folder.name} is none that was written"
        if Checkpoints(run).load_state(checkpoint)["step"] != step:
            yield f"{checkpoint.folder.name} holds another step"
    rows = {(row["kind"], row["step"]): row["loss"] for row in Metrics(run.folder / "metrics.jsonl").read("train")}
    expected = recording.result.losses
    if any(rows.get(("train", each)) != expected["train", each] for each in range(1, step + 1)):
        yield f"the log lacks a step before {step}"
    best = Checkpoints(run).best()
    if best is not None and best not in recording.bests:
        yield f"best.json holds {jsonfile.dumps(best)!r}"
    if best is not None and best["step"] not in [each.step for each in Checkpoints(run).list()]:
        yield "the best checkpoint is gone"


def _end(recording: Recording, run: Run) -> list[str]:
    end = small_run.go_on(run, lambda text: None)
    return [] if end == recording.result else ["the resumed run ends otherwise than the straight one"]


def survey(recording: Recording, room: Path, each: int, seed: int = 0, whole: int = 0) -> tuple[int, list[str]]:
    """(disks looked at, what was wrong in any of them); every `whole`-th is trained to the end."""
    count, found = 0, list[str]()
    for count, (moment, acknowledged, tree) in enumerate(disks(recording, each, seed), start=1):
        complete = bool(whole) and count % whole == 0
        found += [f"moment {moment}: {text}" for text in wrong(recording, acknowledged, tree, room, whole=complete)]
    assert isinstance(durable.disk, Disk)
    return count, found
