"""The settings of a data verb as those of a training, so that a check reads rows as the training will."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from truetune.config import Loaded, load
from truetune.errors import UsageError
from truetune.models.tokenizer import Tokenizer
from truetune.train import session
from truetune.train.session import find_model

CONFIG = (".yml", ".yaml")
Names = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""One file, or several."""


def settings(data: Names, model: str | None, folder: Path | None, values: dict[str, Any]) -> Loaded:
    """The configuration that `ft train --model … --data …` would have with these values of its `data` section; of a
    train.yml in place of the data, what it says. Values that are None are not given.

    Raises ConfigErrors for values that are not allowed, InputError for a train.yml that can't be read, UsageError
    `usage.bad_value` for data that are no names.
    """
    paths = names("data", data)
    given = {f"data.{key}": value for key, value in values.items() if value is not None}
    if len(paths) == 1 and paths[0].endswith(CONFIG):
        return load((folder or Path()) / paths[0], (), given | {"model": model})
    found = load(None, (), {"model": model or "starter", "data.path": paths[0] if len(paths) == 1 else paths, **given})
    return found if folder is None else replace(found, folder=folder)


def names(what: str, given: Names) -> list[str]:
    """Files as a list of text. Raises UsageError `usage.bad_value` for anything else."""
    found = [given] if isinstance(given, str | os.PathLike) else given
    if not isinstance(found, list | tuple) or not all(isinstance(each, str | os.PathLike) for each in found):
        raise UsageError(
            f"{what} must be files, not {type(given).__name__}"
            + (f" of {type(found[0]).__name__}" if isinstance(found, list | tuple) and found else ""),
            code="usage.bad_value",
            where=what,
            hint="Give a path, or a list of paths. Rows of a program go into a file first.",
        )
    if what == "data" and not found:
        hint = "Give a path, or a list of paths."
        raise UsageError("no file is named", code="usage.bad_value", where=what, hint=hint)
    return [os.fspath(each) for each in found]


def encoder(loaded: Loaded) -> Tokenizer:
    """The tokenizer of the configuration's model. Raises InputError."""
    found = find_model(loaded.config, loaded.folder)
    return session.encoder(loaded.config, found.folder, loaded.folder)
