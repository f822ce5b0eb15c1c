"""Receipts of a run: `receipts/<stage>.json`, each with the sha256 of its parent's bytes.

    data ─► train ─► eval
       │        ├──► evaluate-NAME
       │        └──► export-ID
       └──► prove
    made ──► evaluate-NAME, export-ID

    data   inputs [{path, resolved, sha256, bytes, rows}], rows by fate, tokens, files {relative: sha256}
    train  base {name, revision, folder, files}, files, supervised/examples {promised, counted}, grad_norm, …
    prove  verdict (identical, differs), first_difference, steps, killed, compared {part: what differs, null = nothing}
    eval   rows, supervised, base/tuned {loss, perplexity}, checkpoint: as the training measured it
    evaluate-NAME  files {eval/NAME.json: sha256}, weights {relative: sha256}, inputs where they are not the run's own,
                   rows, contaminated, figures [{title, base, tuned}]: by `ft evaluate`, one per checkpoint and data
    export-ID  export {folder, files {name: sha256}}, weights, format, of, template, stages [{name, state, detail, …}],
                   compared [who trained, who loads it], stored, forced: the stage that failed where it was forced
    made   of an adapter that no training made, in place of data and train: how (merged, compressed), settings, base,
           parents [{address, folder, content, files}], files, figures

`truetune.runs.verify` recomputes them. The digest of the last one stands in the model card, because a chain that was
rewritten as a whole agrees with itself.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from truetune.errors import InputError, UsageError
from truetune.runs import durable, jsonfile, known
from truetune.runs.run import NAME, Run

CHAIN = ("data", "train", "eval")
PROVE = "prove"
MADE = "made"
EVALUATE = "evaluate-"
"""How the stages of `ft evaluate` begin."""
EXPORT = "export-"


def parent(stage: str, made: bool = False) -> str | None:
    """The stage before this one; evaluations and exports follow from the training, a proof from what it begins with.
    Of an adapter that was `made` of others they follow from that."""
    if stage == MADE:
        return None
    if made:
        return MADE
    if stage == PROVE:
        return "data"
    if stage in CHAIN:
        return None if stage == "data" else CHAIN[CHAIN.index(stage) - 1]
    return "train"


def path(run: Run, stage: str) -> Path:
    if not NAME.fullmatch(stage):
        raise ValueError(f"{stage!r} is no name of a stage")
    return run.folder / "receipts" / f"{stage}.json"


def write(run: Run, stage: str, body: dict[str, Any]) -> str:
    """Write a stage's receipt durably, chained to its parent's; returns its digest (sha256 of its bytes, hex)."""
    before = parent(stage, is_made(run))
    link = digest(run, before) if before else None
    target = path(run, stage)
    durable.folder(target.parent)
    data = durable.write_json(target, {**body, "schema": 1, "stage": stage, "parent": link})
    return hashlib.sha256(data).hexdigest()


def is_made(run: Run) -> bool:
    """Whether no training made what the run holds: it was merged or compressed from others."""
    return path(run, MADE).is_file()


def refuse_made(run: Run) -> None:
    """For what needs the rows and steps of a training. Raises UsageError `run.made`."""
    if is_made(run):
        raise UsageError(
            "nothing was trained in this run: its adapter was made of others",
            code="run.made",
            where=run.id,
            hint="Name one of those: `ft adapters show` has the lineage.",
        )


def digest(run: Run, stage: str) -> str | None:
    """sha256 of a receipt's bytes; None where there is none."""
    try:
        return durable.digest(path(run, stage))
    except FileNotFoundError:
        return None


def stages(run: Run) -> list[str]:
    """The stages that have a receipt: the chain first, then the others by name."""
    names = {file.stem for file in (run.folder / "receipts").glob("*.json") if NAME.fullmatch(file.stem)}
    first = (MADE, *CHAIN)
    return [stage for stage in first if stage in names] + sorted(names.difference(first))


def read(run: Run) -> dict[str, dict[str, Any]]:
    """Stage -> receipt, in the order of the chain. Raises InputError where there is none, or one is damaged."""
    found = {stage: jsonfile.load(path(run, stage)) for stage in stages(run)}
    if not found:
        raise InputError(
            "the run has no receipt yet",
            code="receipt.missing",
            where=run.id,
            hint="receipts are written by `ft train`: the first when the data is prepared, the others at its end",
        )
    return found


def refuse_changed_base(run: Run, folder: Path) -> None:
    """Compare the base model in `folder` with the one that the run names by sha256 (about 1 s per GB, once).

    What was trained is a change to exactly those weights. A run that names none is let through. Raises InputError
    `model.changed`, which names the files.
    """
    files = named_base(run).get("files", {})
    found = known.digests(folder / name for name in files)
    changed = [name for name, expected in files.items() if found[folder / name] != expected]
    if changed:
        verb = "differs" if len(changed) == 1 else "differ"
        raise InputError(
            f"the base model is not the one that this run was trained from: {', '.join(sorted(changed))} {verb}",
            code="model.changed",
            where=str(folder),
            hint=f"Put the old files back; `ft receipt verify {run.id}` names all that has changed.",
        )


def named_base(run: Run) -> dict[str, Any]:
    """{name, revision, folder, files {relative: sha256}} of the base as the run found it at its start; empty where it
    says nothing of it. The train receipt repeats what env.json says."""
    place = path(run, "train")
    body = jsonfile.load(place) if place.is_file() else run.env
    return body.get("base") or {}
