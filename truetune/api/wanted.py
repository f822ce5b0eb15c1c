"""What several verbs are given, in one form: a run by name or as `train` returned it, a device, a file to write."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from truetune import paths
from truetune.errors import InputError, UsageError


def address(run: Any) -> str:
    """A run, an adapter or a model as the text that names it: a path, or anything with a `folder`; a text is taken as
    it is, but for the name of a registered adapter (`support`, `support@3`), which becomes its run's folder.

    Raises UsageError `usage.bad_value` for anything else, `subject.ambiguous` where a name is also a folder or a run,
    InputError `adapter.missing` for `name@3` where there is none, `adapter.absent` where its files are gone.
    """
    place = getattr(run, "folder", run)
    if isinstance(place, Path):
        return str(place if place is run else place.absolute())
    if isinstance(place, str):
        return _registered(place)
    raise UsageError(
        f"{run!r} names no run, adapter or model",
        code="usage.bad_value",
        hint='Give "last", an id, a folder, or what `truetune.train` returned.',
    )


def _registered(text: str) -> str:
    """The path of the run behind an adapter's name, its checkpoint kept: `support@3:best`."""
    from truetune.registry.catalog import ADDRESS, Catalog
    from truetune.registry.entry import TAKEN

    name, _, checkpoint = text.partition(":")
    if name in TAKEN:
        return text
    catalog = Catalog()
    found = catalog.find(name) if "@" in name and ADDRESS.fullmatch(name) else catalog.look(name)
    if found is None:
        return text
    others = [other for other in (Path(name), paths.runs() / name) if other.exists()]
    folder = present(found)
    if any(other.resolve() != folder.resolve() for other in others):
        raise UsageError(
            f"`{name}` is the adapter {found['address']} and a folder",
            code="subject.ambiguous",
            where=str(others[0]),
            hint=f"Write {found['address']} for the adapter, ./{others[0]} for the folder.",
        )
    return f"{folder}:{checkpoint}" if checkpoint else str(folder)


def adapter(text: str | None, folder: Path) -> str | None:
    """`model.adapter` of a train.yml in this folder: a path as it is, the name of a registered adapter as the folder
    of its result."""
    if text is None or any((place / Path(text).expanduser()).exists() for place in (folder, Path())):
        return text
    from truetune.registry.catalog import Catalog

    found = Catalog().look(text)
    return str(present(found) / found["result"]) if found else text


def result(found: Mapping[str, Any]) -> Path:
    """Where the files of a registered adapter are, if they are there."""
    return Path(str(found["folder"])) / str(found["result"])


def present(found: Mapping[str, Any]) -> Path:
    """The run folder of a registered adapter. Raises InputError `adapter.absent` where it is gone."""
    folder = Path(str(found["folder"]))
    if result(found).is_dir():
        return folder
    raise InputError(
        f"the files of {found['address']} are gone from where they were",
        code="adapter.absent",
        where=str(folder),
        hint="Put the run's folder back; if you moved it, say where: `ft adapters add FOLDER`.",
    )


def device(name: str) -> str:
    """The name of a device that TrueTune knows, on this machine or not. Raises UsageError `usage.bad_value`."""
    from truetune.config.schema import DEVICE

    if isinstance(name, str) and re.fullmatch(DEVICE, name):
        return name
    raise UsageError(
        f"there is no device {name!r}",
        code="usage.bad_value",
        where="device",
        hint="Devices: auto, cpu, cuda, cuda:N (N from 0), mps.",
    )


def refuse_nowhere(what: str, file: str | os.PathLike[str] | None) -> None:
    """Before the work, not after it: a file that can't be written. Raises InputError `data.no_folder`, UsageError
    `usage.bad_value` for what is no path."""
    if file is None:
        return
    if not isinstance(file, str | os.PathLike):
        raise UsageError(f"{file!r} is no file", code="usage.bad_value", where=what, hint="Give a path.")
    path = Path(file)
    if path.is_dir():
        raise InputError("this is a folder", code="data.no_folder", where=str(path), hint="Name a file in it.")
    if not path.absolute().parent.is_dir():
        raise InputError(
            f"there is no folder {str(path.parent)!r} to write {path.name!r} into",
            code="data.no_folder",
            where=str(path),
            hint="Make it first, or name a file in a folder that is there.",
        )
