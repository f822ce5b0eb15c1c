"""The verbs about runs that stand: list, show, compare, stop, remove; the receipt and its verification."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from truetune.api import wanted


def runs_list() -> list[dict[str, Any]]:
    """A summary of each known run (`./runs`, and those made from here elsewhere), newest first."""
    from truetune.runs.find import listing

    return listing()


def run_show(run: Any = "last") -> dict[str, Any]:
    """One run: status, settings it resolved, checkpoints. Raises InputError, UsageError for the address."""
    from truetune.runs.checkpoints import Checkpoints
    from truetune.runs.find import find
    from truetune.runs.status import Status

    found = find(wanted.address(run))
    kept = Checkpoints(found)
    return {
        "id": found.id,
        "folder": str(found.folder),
        "status": Status.read(found).to_json(),
        "checkpoints": [checkpoint.name for checkpoint in kept.list()],
        "best": kept.best(),
        "resolved": found.resolved,
        "env": found.env,
    }


def run_stop(run: Any = "last") -> dict[str, Any]:
    """Ask a running run to stop after its step. Raises UsageError where it is not running."""
    from truetune.errors import UsageError
    from truetune.runs.find import find
    from truetune.runs.status import Status

    found = find(wanted.address(run))
    state = Status.read(found).state
    if state != "running":
        raise UsageError(
            f"the run is not running, it is {state}",
            code="run.not_running",
            where=found.id,
            hint="`ft runs list` shows what every run is doing",
        )
    found.request_stop()
    return {"id": found.id, "folder": str(found.folder), "state": state, "stop": "requested"}


def runs_compare(one: Any, other: Any = "last") -> dict[str, Any]:
    """{runs: [one, other], settings: {key: [of one, of the other]}, figures: {name: [of one, of the other]}}.

    `settings` are those that differ, with the model and the sha256 of the data's files; `figures` all that either run
    has: its state and steps, losses, tokens, memory. Raises InputError, UsageError for the addresses.
    """
    from truetune.runs.beside import figures, settings
    from truetune.runs.find import find

    both = [find(wanted.address(each)) for each in (one, other)]
    return {
        "runs": [{"id": run.id, "folder": str(run.folder)} for run in both],
        "settings": settings(*both),
        "figures": figures(*both),
    }


def run_remove(run: Any) -> dict[str, Any]:
    """Take a run away for good, its registered adapters too: {id, folder, adapters: [address], bytes}.

    Raises UsageError: `run.in_use` where a process works on it, `run.needed` where a run that is not finished went on
    from it, `adapter.needed` where its adapter is in a stage or another one came from it. Nothing is removed then.
    """
    from truetune.registry.catalog import Catalog
    from truetune.runs import removal
    from truetune.runs.find import find

    found, catalog = find(wanted.address(run)), Catalog()
    size = removal.size(found)
    with removal.held(found):
        adapters = [] if catalog.empty else catalog.leave(found.folder)
        removal.remove(found)
    return {"id": found.id, "folder": str(found.folder), "adapters": adapters, "bytes": size}


def receipt_show(run: Any = "last") -> dict[str, Any]:
    """{id, folder, stages: {stage: receipt}}. Raises InputError where the run has no receipt."""
    from truetune.runs import receipt
    from truetune.runs.find import find

    found = find(wanted.address(run))
    return {"id": found.id, "folder": str(found.folder), "stages": receipt.read(found)}


def receipt_verify(
    run: Any = "last",
    *,
    data: str | Path | None = None,
    base: str | Path | None = None,
    watch: Callable[[str], None] = lambda name: None,
) -> dict[str, Any]:
    """{id, folder, verdict: "ok" | "changed", items: [{stage, name, state, detail, own}]}.

    data   where the input files are now (a folder, or the file), base: the base model's folder now
    watch  is told each file's name before it is read
    """
    from dataclasses import asdict

    from truetune.runs.find import find
    from truetune.runs.verify import verdict, verify

    found = find(wanted.address(run))
    items = verify(found, data=Path(data) if data else None, base=Path(base) if base else None, watch=watch)
    return {
        "id": found.id,
        "folder": str(found.folder),
        "verdict": verdict(items),
        "items": [asdict(item) for item in items],
    }
