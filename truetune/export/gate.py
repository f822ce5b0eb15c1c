"""The gate of an export: written aside, loaded by the program it is for, compared, and put in place only if equal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from truetune import __version__
from truetune.engines import parity
from truetune.engines.parity import Parity, Side
from truetune.errors import CheckFailed, UsageError
from truetune.evaluate.talk import out_of_memory
from truetune.export import mlx, peft
from truetune.export.origin import Origin
from truetune.models import facts
from truetune.runs import durable, jsonfile

TARGETS: dict[str, Callable[[Origin, Path], Side]] = {"mlx": mlx.write, "peft": peft.write}
"""Format -> what fills a folder with it, and says who is to load that."""
LATER = ("gguf", "hub", "merged", "ollama")
REPORT = "report.json"


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


def write(origin: Origin, name: str, target: Path) -> dict[str, Any]:
    """Make the folder `target`; returns its report, which stands in it as report.json.

    Raises CheckFailed `export.parity` where what was written computes otherwise than what was trained: then there is
    no folder. Besides, what the format's `write` and `parity.compare` raise, and ResourceError.
    """
    reports: list[dict[str, Any]] = []

    def fill(folder: Path) -> None:
        side = TARGETS[name](origin, folder)
        known = facts.read(origin.side.model)
        texts = parity.probes(known.vocabulary)
        with out_of_memory():
            found = parity.compare(origin.side, side, texts)
            refuse_other(found, target)
            body = report(origin, name, found)
            if side.engine == parity.MLX_LM and known.dtype != "F32":
                coarse = parity.compare(side, replace(side, exact=False), texts)
                body["stored"] = {"dtype": known.dtype, "largest": coarse.largest, "mean": coarse.mean}
        reports.append(body)
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


def report(origin: Origin, name: str, found: Parity) -> dict[str, Any]:
    """`stored` is added where the target computes in the number type of the stored weights: how far that lies apart."""
    return {
        "schema": 1,
        "format": name,
        "of": origin.name,
        "base": {"name": origin.base.name, "revision": origin.base.revision},
        "adapter": origin.side.adapter is not None,
        "parity": found.to_json(),
        "stored": None,
        "truetune": __version__,
    }
