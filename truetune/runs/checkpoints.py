"""Checkpoints of a run: folders `checkpoints/step-000200`, each whole when its manifest agrees with its files.

A damaged one is moved to `checkpoints/quarantine/` and named, never deleted and never loaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from truetune.errors import InputError, UsageError
from truetune.runs import durable, jsonfile
from truetune.runs.run import Run

NAME = re.compile(r"best|last|step-0*(?P<step>\d{1,15})")
"""What a checkpoint is called in an address: `RUN:best`, `RUN:last`, `RUN:step-200`."""
_FOLDER = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True)
class Checkpoint:
    folder: Path
    step: int

    @property
    def name(self) -> str:
        return f"step-{self.step}"


class Checkpoints:
    """The checkpoints of one run. Everything but reading is done under the run's lock."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.root = run.folder / "checkpoints"
        self.own: set[int] = set()
        """Steps that this object has saved: whole, without reading them again."""

    def save(self, step: int, fill: Callable[[Path], None], state: dict[str, Any]) -> Checkpoint:
        """Commit a checkpoint: `fill(folder)` writes the engine's files, `state` becomes `state.json`.

        What did not change since the newest one is linked to it, where it is large. Raises ResourceError where the
        disk is full; every earlier checkpoint is whole then.
        """
        before = self.list()

        def both(folder: Path) -> None:
            fill(folder)
            durable.create(folder / "state.json", jsonfile.dumps(state))

        checkpoint = Checkpoint(self.root / f"step-{step:06d}", step)
        durable.commit(checkpoint.folder, both, replace=True, like=before[-1].folder if before else None)
        self.own.add(step)
        return checkpoint

    def list(self) -> list[Checkpoint]:
        """Every checkpoint by step, oldest first; their files are not checked."""
        found = ((_FOLDER.fullmatch(path.name), path) for path in self.root.glob("step-*"))
        return sorted((Checkpoint(path, int(match[1])) for match, path in found if match), key=lambda each: each.step)

    def load_state(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """The `state` of `save`. Raises InputError where it cannot be read."""
        return jsonfile.load(checkpoint.folder / "state.json")

    def newest_good(self, warn: Callable[[str], None]) -> Checkpoint | None:
        """The newest whole checkpoint; damaged ones on the way are moved to quarantine and named to `warn`."""
        return next(filter(None, (self._good(checkpoint, warn) for checkpoint in reversed(self.list()))), None)

    def good(self, step: int | None, warn: Callable[[str], None]) -> Checkpoint | None:
        """The checkpoint of a step, where it is whole; a damaged one is moved to quarantine and named to `warn`."""
        found = next((checkpoint for checkpoint in self.list() if checkpoint.step == step), None)
        return found and self._good(found, warn)

    def _good(self, checkpoint: Checkpoint, warn: Callable[[str], None]) -> Checkpoint | None:
        bad = durable.check(checkpoint.folder)
        if not bad:
            return checkpoint
        kept = self._quarantine(checkpoint)
        warn(f"checkpoint {checkpoint.name} is damaged ({_some(bad)}); it was moved to {kept}")
        return None

    def rewind(self, step: int, warn: Callable[[str], None]) -> None:
        """Before a resume from `step`: later checkpoints belong to an attempt that is given up, so set them aside."""
        for checkpoint in self.list():
            if checkpoint.step > step:
                kept = self._quarantine(checkpoint)
                warn(f"checkpoint {checkpoint.name} lies after step {step}; it was moved to {kept}")
        best = self.best()
        if best and best["step"] > step:
            self.unmark_best()

    def find(self, name: str | None = None) -> Checkpoint:
        """`best`, `last` (also for None) or `step-200`, checked against its manifest.

        Raises UsageError for another name, InputError where there is no such checkpoint or it is damaged.
        """
        checkpoint = self._named(name or "last")
        if bad := durable.check(checkpoint.folder):
            raise InputError(
                f"checkpoint {checkpoint.name} is damaged: {_some(bad)}",
                code="checkpoint.damaged",
                where=str(checkpoint.folder),
                hint=f"choose another one; there are {self._names(checkpoint)}",
            )
        return checkpoint

    def collect(self, keep: int, best_step: int | None = None) -> None:
        """Remove the oldest beyond `keep`, but never the newest whole one nor the best."""
        there = self.list()
        old, kept = there[: -max(keep, 1)], there[-max(keep, 1) :]
        if not any(map(self._whole, reversed(kept))):
            saviour = next(filter(self._whole, reversed(old)), None)
            old = [checkpoint for checkpoint in old if checkpoint != saviour]
        for checkpoint in old:
            if checkpoint.step != best_step:
                durable.remove(checkpoint.folder)

    def _whole(self, checkpoint: Checkpoint) -> bool:
        return checkpoint.step in self.own or not durable.check(checkpoint.folder)

    def mark_best(self, step: int, eval_loss: float) -> None:
        """Note which checkpoint has the lowest held-out loss."""
        durable.write_json(self.root / "best.json", {"step": step, "eval_loss": eval_loss})

    def unmark_best(self) -> None:
        """No checkpoint is the best, for now."""
        (self.root / "best.json").unlink(missing_ok=True)

    def best(self) -> dict[str, Any] | None:
        """{step, eval_loss} of the best checkpoint, or None where none is marked."""
        path = self.root / "best.json"
        return jsonfile.load(path) if path.exists() else None

    def _named(self, name: str) -> Checkpoint:
        match = NAME.fullmatch(name)
        if match is None:
            raise UsageError(
                f"`{name}` is no name of a checkpoint",
                code="checkpoint.name",
                where=self.run.id,
                hint="write best, last or step-N, for example step-200",
            )
        there = self.list()
        if name == "best":
            step = (self.best() or {}).get("step")
        else:
            step = int(match["step"]) if match["step"] else (there[-1].step if there else None)
        for checkpoint in there:
            if checkpoint.step == step:
                return checkpoint
        raise InputError(
            f"the run has no checkpoint `{name}`",
            code="checkpoint.missing",
            where=self.run.id,
            hint=f"there are {self._names()}",
        )

    def _names(self, without: Checkpoint | None = None) -> str:
        return ", ".join(each.name for each in self.list() if each != without) or "none yet"

    def _quarantine(self, checkpoint: Checkpoint) -> Path:
        """Move a checkpoint out of the way; returns where it lies, relative to the run."""
        room = durable.folder(self.root / "quarantine")
        target, count = room / checkpoint.folder.name, 1
        while target.exists():
            count += 1
            target = room / f"{checkpoint.folder.name}.{count}"
        durable.move(checkpoint.folder, target)
        return target.relative_to(self.run.folder)


def _some(names: list[str]) -> str:
    """The first names of a list, for a sentence."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
