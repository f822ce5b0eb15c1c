"""The gate of an export: written aside, loaded by the program it is for, compared, and put in place only if equal."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from truetune import __version__
from truetune.engines import parity
from truetune.engines.parity import Parity, Side
from truetune.errors import CheckFailed, UsageError
from truetune.evaluate.talk import out_of_memory
from truetune.export.origin import Origin
from truetune.models import facts
from truetune.runs import durable, jsonfile

TARGETS = {"mlx": "truetune.export.mlx", "peft": "truetune.export.peft", "merged": "truetune.export.merged"}
"""Format -> module of a `Target`, imported when it is wanted: PEFT takes seconds."""
LATER = ("gguf", "hub", "ollama")
REPORT = "report.json"


class Target(Protocol):
    """A module that knows one format."""

    @staticmethod
    def write(origin: Origin, folder: Path) -> Side:
        """Fill an existing folder; returns who is to load that, and must compute in float32 what was trained."""
        ...

    @staticmethod
    def store(
        origin: Origin, folder: Path, side: Side, texts: parity.Texts, exact: NDArray[np.float32]
    ) -> dict[str, Any] | None:
        """After that was compared: what the number type costs in which it is stored, {dtype, largest, mean}; `exact`
        are the scores in float32."""
        ...


def refuse_format(name: str) -> None:
    """Raises UsageError `export.format`, `export.later`."""
    if name in TARGETS:
        return
    later = name in LATER
    raise UsageError(
        f"the format {name} is not in this version" if later else f"there is no format {name!r}",
        code="export.later" if later else "export.format",
        where="format",
        hint=f"Formats: {', '.join(TARGETS)}.",
    )


def place(origin: Origin, name: str, out: Path | None) -> Path:
    """Where an export goes. Raises UsageError `export.no_out`, `export.exists`."""
    if out is None and origin.run is None:
        raise UsageError(
            "what is no run has no folder for its exports",
            code="export.no_out",
            where="out",
            hint="Name one: --out DIR.",
        )
    target = out or Path(origin.run.folder if origin.run else "") / "exports" / f"{name}{origin.title}"
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise UsageError(
            "there is something already, and nothing is written over",
            code="export.exists",
            where=str(target),
            hint="Name another place with --out, or remove it first.",
        )
    return target


def write(origin: Origin, name: str, how: Target, target: Path) -> dict[str, Any]:
    """Make the folder `target` as `how` does; returns its report, which stands in it as report.json.

    Raises CheckFailed `export.parity` where what was written computes otherwise than what was trained: then there is
    no folder. Besides, what the format's `write` and `parity.scores` raise, and ResourceError.
    """
    reports: list[dict[str, Any]] = []

    def fill(folder: Path) -> None:
        side = how.write(origin, folder)
        texts = parity.probes(facts.read(origin.side.model).vocabulary)
        with out_of_memory():
            trained, exact = parity.scores(origin.side, texts), parity.scores(side, texts)
            found = parity.apart(origin.side, trained, side, exact)
            refuse_other(found, target)
            stored = how.store(origin, folder, side, texts, exact)
        reports.append(report(origin, name, found, stored))
        (folder / REPORT).write_bytes(jsonfile.dumps(reports[0]))

    durable.place(target, fill)
    return reports[0]


def refuse_other(found: Parity, target: Path) -> None:
    if found.ok:
        return
    raise CheckFailed(
        f"{found.second} does not compute what {found.first} did: log-probabilities lie up to {found.largest:.2g} "
        f"apart, and {parity.TOLERANCE:g} is allowed",
        code="export.parity",
        where=str(target),
        hint="Nothing was written. The two libraries read the settings of this model otherwise: use the other format.",
    )


def report(origin: Origin, name: str, found: Parity, stored: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "schema": 1,
        "format": name,
        "of": origin.name,
        "base": {"name": origin.base.name, "revision": origin.base.revision},
        "adapter": origin.side.adapter is not None,
        "parity": found.to_json(),
        "stored": stored,
        "truetune": __version__,
    }
