"""The session of a run that stands: what it recorded, found again, and refused where its data has changed since."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from truetune.config import Config
from truetune.data import added
from truetune.data.prepare import Prepared
from truetune.errors import InputError, UsageError
from truetune.models import source, tokenizer
from truetune.models.source import Source
from truetune.runs import receipt
from truetune.runs.run import Run
from truetune.train.session import Session, record, rows

OLD = "Put the old file back, or start a new run; to measure on other rows: ft evaluate --data FILE."


def reopen(run: Run) -> Session:
    """The session of a run that stands, built from what it recorded, wherever it is opened from.

    Raises UsageError `resume.data_changed`, InputError `data.missing`.
    """
    resolved = run.resolved
    config, folder = anchored(run), Path(resolved["folder"])
    found = Source(**{**resolved["model"], "folder": Path(resolved["model"]["folder"])})
    source.check(found.folder)
    encode = added.extended(tokenizer.load(found.folder), resolved.get("new_tokens", ()))
    try:
        prepared = rows(config, folder, encode)
    except InputError as error:
        if error.finding.code != "data.missing":
            raise
        raise InputError(error.finding.message, code="data.missing", where=error.finding.where, hint=OLD) from None
    session = Session(config, folder, found, encode, prepared, resolved)
    if "data" in receipt.stages(run):
        refuse_other_data(run, receipt.read(run)["data"], prepared)
    else:  # the start was cut off before its first receipt
        record(session, run)
    return session


def anchored(run: Run) -> Config:
    """What was written, with every relative path as the start of the run found it: by now you may stand elsewhere."""
    config, here = Config.model_validate(run.resolved["written"]), run.env.get("here")
    if not here:
        return config
    roots = [Path(place) for recorded in (run.resolved["folder"], here) for place in run.places(recorded)]

    def now(name: str) -> str:
        return run.moved(found_at(name, roots))

    data: dict[str, Any] = {"path": tuple(now(name) for name in config.data.paths)}
    if isinstance(config.data.validation, str) and config.data.validation != "auto":
        data["validation"] = now(config.data.validation)
    if config.data.template not in ("auto", "none"):
        data["template"] = now(config.data.template)
    model = {"adapter": now(config.model.adapter)} if config.model.adapter else {}
    parts = {"data": config.data.model_copy(update=data), "model": config.model.model_copy(update=model)}
    return config.model_copy(update=parts)


def found_at(name: str, roots: Iterable[Path]) -> str:
    """The full path of a file, folder or pattern that was found from one of these folders; as it is where it is not."""
    path = Path(name).expanduser()
    for root in roots:
        if (root / path).exists() or (glob.has_magic(name) and any(glob.iglob(name, root_dir=root, recursive=True))):
            return str(root / path)
    return name


def refuse_other_data(run: Run, standing: dict[str, Any], prepared: Prepared) -> None:
    before = {run.moved(item["resolved"]): item["sha256"] for item in standing["inputs"]}
    after = {item["resolved"]: item["sha256"] for item in prepared.report["inputs"]}
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    if changed:
        raise UsageError(
            f"the data has changed since the run started: {', '.join(changed)}",
            code="resume.data_changed",
            where=run.id,
            hint=OLD,
        )
