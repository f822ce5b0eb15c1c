"""The receipt of an export: `receipts/export-ID.json` of the run that it came from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from truetune.evaluate.results import weights
from truetune.export.origin import Origin
from truetune.runs import durable, receipt
from truetune.runs.receipt import EXPORT
from truetune.runs.run import Run


def write(origin: Origin, folder: Path, report: Mapping[str, Any]) -> str | None:
    """The stage's name; None where there is no run, or none whose result has a receipt to follow from."""
    run, subject = origin.run, origin.subject
    if run is None or subject is None:
        return None
    before = receipt.parent(EXPORT, receipt.is_made(run))
    if before is None or receipt.digest(run, before) is None:
        return None
    parity = report["parity"]
    body = {
        "export": {"folder": place(run, folder), "files": digests(folder)},
        "weights": durable.digests(weights(subject), run.folder),
        "format": report["format"],
        "of": report["of"],
        "template": report["template"],
        "forced": report["forced"],
        "stored": report["stored"]["dtype"] if report["stored"] else None,
        "stages": parity["stages"],
        "compared": [parity["first"], parity["second"]],
        "hub": report.get("hub"),
    }
    stage = stage_of(run, folder)
    receipt.write(run, stage, body)
    return stage


def place(run: Run, folder: Path) -> str:
    """Relative to the run where it lies in it."""
    folder = folder.absolute()
    return folder.relative_to(run.folder).as_posix() if folder.is_relative_to(run.folder) else str(folder)


def stage_of(run: Run, folder: Path) -> str:
    """`export-mlx` for `exports/mlx` of the run; elsewhere by eight letters of the place."""
    where = place(run, folder)
    name = where.removeprefix("exports/")
    inside = where.startswith("exports/") and "/" not in name
    return EXPORT + (name if inside else hashlib.sha256(where.encode()).hexdigest()[:8])


def digests(folder: Path) -> dict[str, str]:
    """{name: sha256} of an export's files."""
    return durable.digests(sorted(path for path in folder.rglob("*") if path.is_file()), folder)
