"""The verbs about the models that lie here: their list, what one of them is, and its removal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from truetune.errors import InputError, UsageError


def models_list() -> dict[str, Any]:
    """The models in the hub's cache on this machine, and the pulls that are going on or broke off.

    `{"cache", "models": [{"name", "bytes", "partial", "touched", "commits": [{"commit", "revisions", "whole",
    "pulled"}], "used_by": ["run …", "adapter …"], "pull": {"state", "bytes", "total", "error", …} | None}]}`: bytes on
    the disk, `partial` those of files that are not whole, `whole` whether config and weights are all there, `pulled`
    whether TrueTune has checked its files.
    """
    from truetune.models import hub, library

    users = _users()
    models = [
        {
            "name": entry.name,
            "bytes": entry.size,
            "partial": entry.partial,
            "touched": entry.used,
            "commits": [
                {
                    "commit": commit,
                    "revisions": names,
                    "whole": hub.cached(entry.name, commit) is not None,
                    "pulled": bool(library.recorded(entry.name, commit)),
                }
                for commit, names in entry.commits.items()
            ],
            "used_by": [user for (name, _), used in users.items() if name == entry.name for user in used],
            "pull": library.state(entry.name),
        }
        for entry in library.entries()
    ]
    return {"cache": str(hub.cache()), "models": models}


def models_info(model: str, *, revision: str | None = None, exports: bool = False) -> dict[str, Any]:
    """What a model is, from its config.json and the headers of its weights; nothing is loaded.

    model    `starter`, a folder or a hub id (`OWNER/NAME@REVISION`); of one that is not here, config.json is downloaded
    exports  also ask every format whether what is trained on it can be exported, which loads their libraries

    `{"name", "kind", "revision", "folder", "here", "bytes", "model_type", "architecture", "parameters", "exact",
    "dtype", "bits", "layers", "hidden", "vocabulary", "context", "licence", "template": {"origin", "sha256"} | None,
    "ends": [token, …] | None, "training": [{"method", "bits", "total", "fits", "longest", …}], "memory",
    "serving": {"weights", "per_token", "context", "total"}, "exports": {format: reason or ""} | None}`. `here` says
    whether the weights are on this machine, `bits` is 0 for weights that are not packed, a reason is why an export to
    this format is refused. Raises as `models_fit`.
    """
    from truetune.api import room
    from truetune.api.models import split, token
    from truetune.models import counting, facts, hub, probe, source
    from truetune.train import card

    name, revision = split(model, revision)
    place = source.described(name, revision=revision, folder=Path(), token=token())
    kind = "starter" if place == source.STARTER else "hub" if _of_hub(place) else "folder"
    here = kind != "hub" or hub.cached(name, place.name) is not None
    if here:
        source.check(place)
    reader = probe.look(place)
    known = facts.read(place) if here else counting.sketch(place)
    template = reader.template if reader else None
    free, gpu = room.free(None)
    return {
        "name": name,
        "kind": kind,
        "revision": place.name if kind == "hub" else None,
        "folder": str(place),
        "here": here,
        "bytes": sum(path.stat().st_size for path in place.iterdir() if path.is_file()),
        "model_type": known.model_type,
        "architecture": known.architecture,
        "parameters": known.parameters,
        "exact": here or counting.known(known.model_type),
        "dtype": known.dtype,
        "bits": known.bits,
        "layers": known.layers,
        "hidden": known.hidden,
        "vocabulary": known.vocabulary,
        "context": known.reach,
        "licence": card.licence(place).get("license"),
        "template": {"origin": template.origin, "sha256": template.digest} if template else None,
        "ends": [reader.text(token) for token in reader.eos_ids] if reader else None,
        "training": room.training(known, free, gpu),
        "memory": free,
        "serving": room.serving(known),
        "exports": _exports(place, here) if exports else None,
    }


def models_remove(model: str, *, revision: str | None = None, force: bool = False) -> dict[str, Any]:
    """Take a model of the hub out of the cache, partial files too; with a revision only that commit of it.

    `{"name", "commit", "bytes", "used_by"}`: the bytes that are free now, and what needed it. Raises InputError
    `model.not_here`, UsageError `model.needed` where a run or an adapter rests on it (unless `force`), ResourceError
    `model.busy` while it is pulled.
    """
    from truetune.api.models import hub_name
    from truetune.models import library, pull

    name, revision = hub_name(model, revision)
    there = library.entry(name)
    if not there.folder.is_dir():
        hint = "`ft models list` shows what is here"
        raise InputError("the model is not in the cache", code="model.not_here", where=name, hint=hint)
    commit = _commit(there, revision)
    users = _users()
    needed = [user for (used, at), who in users.items() if used == name and commit in (None, at) for user in who]
    if needed and not force:
        raise UsageError(
            f"{_several(needed)} need{'s' if len(needed) == 1 else ''} it",
            code="model.needed",
            where=name,
            hint="say --yes to remove it all the same: it can be pulled again, as long as the hub has it",
        )
    with pull.lock(name, wait=False):
        freed = library.remove(name, commit)
    return {"name": name, "commit": commit, "bytes": freed, "used_by": needed}


def _users() -> dict[tuple[str, str], list[str]]:
    """(hub model, commit) -> the runs known here and the registered adapters that were made on it."""
    from truetune.errors import TrueTuneError
    from truetune.registry.catalog import Catalog
    from truetune.runs.find import known

    found: dict[tuple[str, str], list[str]] = {}
    for run, _ in known():
        try:
            base = run.resolved["model"]
        except (TrueTuneError, KeyError, TypeError):  # damaged: it is not for this verb to say so
            continue
        if base.get("kind") == "hub":
            found.setdefault((base["name"], base["revision"]), []).append(f"run {run.id}")
    for adapter in Catalog().all():
        base = adapter["base"]
        if base["revision"]:
            found.setdefault((base["name"], base["revision"]), []).append(f"adapter {adapter['address']}")
    return found


def _several(users: list[str]) -> str:
    more = f" and {len(users) - 3} more" if len(users) > 3 else ""
    return ", ".join(users[:3]) + more


def _commit(there: Any, revision: str | None) -> str | None:
    """The commit that a revision means in the cache. Raises InputError `model.not_here`."""
    if revision is None:
        return None
    fits = [commit for commit, names in there.commits.items() if commit.startswith(revision) or revision in names]
    if len(fits) != 1:
        hint = f"commits in the cache: {', '.join(commit[:12] for commit in there.commits) or 'none'}"
        raise InputError(f"`{revision}` is no commit of it here", code="model.not_here", where=there.name, hint=hint)
    return str(fits[0])


def _of_hub(place: Path) -> bool:
    from truetune.models import hub

    return place.parent.name == "snapshots" and place.is_relative_to(hub.cache())


def _exports(place: Path, here: bool) -> dict[str, str]:
    """Format -> why what is trained on this model cannot be exported to it; empty where it can."""
    from truetune.api.export import export
    from truetune.errors import TrueTuneError
    from truetune.export import gate

    found = dict.fromkeys(gate.TARGETS, "" if here else "its weights are not here")
    for format in gate.TARGETS if here else ():
        try:
            export(str(place), format=format, dry_run=True)
        except TrueTuneError as error:
            found[format] = error.message
    return found
