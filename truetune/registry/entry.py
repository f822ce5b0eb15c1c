"""What the registry says of a finished run, read from its folder: the files there are the truth, this is a copy."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from truetune.errors import InputError
from truetune.runs import durable, receipt
from truetune.runs.run import NAME, Run, slug

RESULTS = ("adapter", "model")
"""Where a run's result lies: an adapter, or after full fine-tuning the whole model."""
CARD = "README.md"
TAKEN = ("last", "starter")
"""Names that mean something else."""
_ID = re.compile(r"\d{8}-\d{6}-(?P<name>.+)-[0-9a-z]{4}")


def describe(run: Run) -> dict[str, Any]:
    """JSON-ready: run, folder, result, content, base, data, objective, method, parents, scores, receipt.

    `content` is `digest_of` the result's files as the training has hashed them, `parents` names what it went on from
    or was made of by its content, and `receipt` is the digest of the train receipt (`made`, where nothing was trained).
    Raises InputError `run.unfinished`.
    """
    stages = receipt.read(run)
    last = receipt.MADE if receipt.MADE in stages else "train"
    result = next((name for name in RESULTS if (run.folder / name).is_dir()), None)
    if result is None or last not in stages:
        raise InputError(
            "this run is not finished, so it has no adapter",
            code="run.unfinished",
            where=run.id,
            hint=f"Go on with it: ft train --from {run.id}.",
        )
    train, measured, config = stages[last], stages.get("eval", {}), run.resolved["config"]
    base, inputs = train.get("base", {}), stages.get("data", {}).get("inputs", ())
    return {
        "run": run.id,
        "folder": str(run.folder),
        "result": result,
        "content": digest_of(_within(train["files"], result)),
        "base": {key: base.get(key) for key in ("name", "revision")} | {"content": digest_of(base.get("files", {}))},
        "data": digest_of({each["path"]: each["sha256"] for each in inputs}) if inputs else "",
        "objective": config["training"]["objective"],
        "method": config["method"]["type"],
        "parents": _made_of(train) if last == receipt.MADE else _parents(run, config["model"]["adapter"]),
        "scores": {name: value for name, value in _scores(train, measured).items() if value is not None},
        "receipt": receipt.digest(run, last),
    }


def name_of(run: Run) -> str:
    """`output.name`; else what the run's id or folder is called by; else the model's name and the data's."""
    config = run.resolved["config"]
    parts = _ID.fullmatch(run.id)
    for name in (config["output"]["name"], parts["name"] if parts else run.id):
        if name and NAME.fullmatch(name) and name not in TAKEN:
            return str(name)
    return "-".join(filter(None, (slug(run.resolved["model"]["name"]), slug(run.id)))) or "adapter"


def digest_of(files: Mapping[str, str]) -> str:
    """sha256 over the names and sha256 of files, the model card left out: equal where the files are."""
    lines = (f"{sha256}  {name}\n" for name, sha256 in sorted(files.items()) if Path(name).name != CARD)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def content(folder: Path) -> str:
    """`digest_of` the files of an adapter or a model. Raises OSError."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return digest_of(durable.digests(files, folder))


def _within(files: Mapping[str, str], result: str) -> dict[str, str]:
    return {name.removeprefix(f"{result}/"): value for name, value in files.items() if name.startswith(f"{result}/")}


def _parents(run: Run, adapter: str | None) -> list[dict[str, Any]]:
    """What the run went on from, by content; nothing where that is gone, or was never ours to read."""
    if adapter is None:
        return []
    here = Path(str(run.env.get("here") or "."))
    place = here / Path(adapter).expanduser()
    try:
        return [{"how": "continued", "folder": str(place), "content": content(place)}] if place.is_dir() else []
    except OSError:
        return []


def _made_of(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The adapters that one was merged or compressed from."""
    known = ("folder", "content")
    return [{"how": body["how"]} | {key: parent[key] for key in known} for parent in body["parents"]]


def _scores(train: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, Any]:
    held_out = {side: measured.get(side, {}).get("loss") for side in ("base", "tuned")}
    return {"steps": train.get("steps"), "base_loss": held_out["base"], "eval_loss": held_out["tuned"]}
