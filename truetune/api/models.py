"""The verbs `models_search` and `models_pull`: what the hub has, and how it comes here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from truetune.errors import InputError, UsageError

LOOKED = 100
"""Models of the hub that one search looks at, where some are left out here."""


def models_search(
    text: str = "",
    *,
    task: str | None = "text-generation",
    size: str | None = None,
    licence: str | None = None,
    fits: bool = False,
    memory: str | None = None,
    limit: int = 20,
) -> dict[str, Any]:
    """Models of the hub with weights that can be trained, most downloads first.

    text       part of the name; empty for all
    task       as the hub calls it; None for all
    size       parameters: `"<3B"`, `">500M"`, `"1B-7B"`
    licence    as the hub calls it: `apache-2.0`, `mit`
    fits       only those that a method of training fits here (of each, config.json is downloaded)
    memory     fit into this much (`"8GB"`) instead of what is free here
    limit      most models

    `{"models": [{"name", "parameters", "task", "licence", "downloads", "changed", "gated", "fits"}], "memory"}`; `fits`
    names methods of training (`["qlora-4", "lora"]`), and is None unless it was asked for. Raises
    UsageError `usage.bad_value`, InputError `model.offline`, `model.unreachable`, `model.hub_missing`.
    """
    from itertools import islice

    from truetune.api import room
    from truetune.models import search

    fitting = fits or memory is not None
    sizes = search.size(size) if size else search.Range()
    most = LOOKED if fitting or size else limit
    found = search.search(text, task=task, sizes=sizes, licence=licence, token=token(), limit=most)
    if not fitting:
        return {"models": [each.to_json() | {"fits": None} for each in islice(found, limit)], "memory": None}
    there, gpu = room.free(memory)
    told = ({"fits": _methods(each.name, there, gpu)} | each.to_json() for each in found)
    return {"models": list(islice((each for each in told if each["fits"]), limit)), "memory": there}


def models_pull(
    model: str,
    *,
    revision: str | None = None,
    background: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Download a model of the hub, pinned to one commit, every file checked against its hash; what came before a break
    is not loaded again.

    model        `OWNER/NAME`, or with a branch, tag or commit `OWNER/NAME@REVISION`
    background   in a process of its own: `models_list` tells how far it is
    progress     is told (bytes here, bytes in all)

    `{"name", "revision", "commit", "folder", "bytes", "files": {name: {"bytes", "hash", "sha256"}}, "state"}`; in the
    background without folder and files, with `pid`. Raises InputError and ResourceError as `models.pull`, UsageError
    `model.not_hub`.
    """
    from truetune.models import library, probe, pull

    name, revision = hub_name(model, revision)
    if background:
        return _in_background(name, revision)
    folder = pull.pull(name, revision, token(), progress=progress, vet=lambda place: _ignored(probe.look(place)))
    files = library.recorded(name, folder.name).get("files", {})
    return {
        "name": name,
        "revision": revision or "main",
        "commit": folder.name,
        "folder": str(folder),
        "bytes": sum(path.stat().st_size for path in folder.iterdir()),
        "files": files,
        "state": "finished",
    }


def split(model: str, revision: str | None) -> tuple[str, str | None]:
    """`OWNER/NAME@REVISION` in two; a folder keeps its name. Raises UsageError `usage.bad_value`."""
    from truetune.models import hub, source

    name, at, said = model.partition("@")
    if not at or source.PATH.match(model) or Path(model).exists() or not hub.is_name(name):
        return model, revision
    if revision is not None and said != revision:
        hint = "Leave out one of them."
        raise UsageError("two revisions are named", code="usage.bad_value", where="--revision", hint=hint)
    return name, said


def hub_name(model: str, revision: str | None) -> tuple[str, str | None]:
    """As `split`, of a hub model only. Raises UsageError `model.not_hub`."""
    from truetune.models import hub

    name, revision = split(model, revision)
    if name == "starter" or not hub.is_name(name):
        raise UsageError(
            "this is no model of the hub",
            code="model.not_hub",
            where=model,
            hint="name one as OWNER/NAME; `starter` and folders are here already",
        )
    return name, revision


def _in_background(name: str, revision: str | None) -> dict[str, Any]:
    """Start `ft models pull` as a process that outlives this one; what can go wrong at once is told at once."""
    import subprocess
    import sys
    import time

    from truetune.models import hub, library, listing

    hub.refuse_offline(name)
    try:
        listing.trainable(listing.read(name, revision, token()))
    except hub.NETWORK as error:
        raise hub.explain(error, name, revision) from error
    log = library.notes(name) / "pull.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    line = [sys.executable, "-m", "truetune", "models", "pull", name, "--json"]
    line += ["--revision", revision] if revision else []
    with log.open("wb") as out:
        child = subprocess.Popen(
            line, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    until = time.monotonic() + 30
    while time.monotonic() < until:
        state = library.state(name) or {}
        if state.get("pid") == child.pid or child.poll() is not None:
            break
        time.sleep(0.05)
    if child.poll():
        raise _ended(name, library.load(log).get("error", {}), str(log))
    state = library.state(name) or {}
    known = {key: state.get(key) for key in ("commit", "bytes", "total", "state")}
    return {"name": name, "revision": revision or "main", "pid": child.pid, "log": str(log)} | known


def _ended(name: str, error: dict[str, Any], log: str) -> InputError:
    """What the process in the background said before it ended."""
    return InputError(
        str(error.get("message") or "the pull has ended at once"),
        code=str(error.get("code") or "model.unreachable"),
        where=str(error.get("where") or name),
        hint=str(error.get("hint") or f"see {log}"),
    )


def token() -> str | None:
    from truetune.config.secrets import secret

    found = secret("huggingface.token", Path())
    return found.reveal() if found else None


def _ignored(_: Any) -> None:
    """A look whose result is not wanted."""


def _methods(name: str, there: int, gpu: bool) -> list[str]:
    """The methods that fit, of a model whose config.json is asked for; none where it cannot be used at all."""
    from truetune.api import room
    from truetune.models import counting, source

    try:
        known = counting.sketch(source.described(name, folder=Path(), token=token()))
    except InputError:
        return []
    found = [row for row in room.training(known, there, gpu) if row["fits"]]
    return [f"{row['method']}-{row['bits']}" if row["bits"] else row["method"] for row in found]
