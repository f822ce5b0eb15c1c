"""Which training a checkpoint belongs to: its state names the settings, the rows and the base by which it was made, so
that a folder that was copied in from another run is not taken for one of this run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from truetune.errors import InputError
from truetune.runs import receipt
from truetune.runs.checkpoints import Checkpoint, Checkpoints
from truetune.runs.run import Run
from truetune.train.settings import ALLOWED, flat, shown

KEY = "run"
"""In a checkpoint's state."""
PLACES = {"data.path", "data.validation", "data.template", "model.path", "model.revision", "model.adapter", "profile"}
"""Settings that say where something is; what it is, its digest says."""
NAMED = 3
"""Differences that a sentence lists."""


def of(run: Run) -> dict[str, dict[str, Any]]:
    """{settings {key: value}, rows {name: sha256}, base {file: sha256}} that a resume may not change."""
    config = flat(run.resolved.get("config", {}))
    inputs = receipt.read(run)["data"]["inputs"] if "data" in receipt.stages(run) else []
    return {
        "settings": {key: value for key, value in config.items() if bound(key)},
        "rows": {Path(item["resolved"]).name: item["sha256"] for item in inputs},
        "base": (run.env.get("base") or {}).get("files", {}),
    }


def bound(key: str) -> bool:
    section = key.partition(".")[0]
    return key not in ALLOWED | PLACES and section not in ("output", "generation", "version")


def refuse_other(run: Run, checkpoint: Checkpoint) -> None:
    """Raises InputError `checkpoint.other_run` where the state of a checkpoint names another training than this
    run's. One of before checkpoints were bound names none."""
    state = Checkpoints(run).load_state(checkpoint)
    if found := list(differences(state.get(KEY) or {}, of(run))):
        more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
        raise InputError(
            f"checkpoint {checkpoint.name} belongs to another run: {', '.join(found[:NAMED])}{more}",
            code="checkpoint.other_run",
            where=str(checkpoint.folder),
            hint="Move it out of this run's checkpoints/, and go on from one of its own.",
        )


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[str]:
    for kind in here if there else ():
        one, other = there.get(kind, {}), here[kind]
        for name in sorted(one.keys() | other.keys()):
            if one.get(name) == other.get(name):
                continue
            if kind == "settings":
                yield f"{name} is {shown(one.get(name))} there and {shown(other.get(name))} here"
            else:
                yield f"the {kind} differ{'s' if kind == 'base' else ''} ({name})"
