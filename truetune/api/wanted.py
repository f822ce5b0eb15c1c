"""What several verbs are given, in one form: a run by name or as `train` returned it, a device, a file to write."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from truetune.errors import InputError, UsageError


def address(run: Any) -> str:
    """A run, an adapter or a model as the text that names it: text as it is, a path, or anything with a `folder`.

    Raises UsageError `usage.bad_value` for anything else.
    """
    place = getattr(run, "folder", run)
    if isinstance(place, Path):
        return str(place if place is run else place.absolute())
    if isinstance(place, str):
        return place
    raise UsageError(
        f"{run!r} names no run, adapter or model",
        code="usage.bad_value",
        hint='Give "last", an id, a folder, or what `truetune.train` returned.',
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
