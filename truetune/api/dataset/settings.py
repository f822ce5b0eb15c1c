"""The settings of a data verb as those of a training, so that a check reads rows as the training will."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from truetune.config import Loaded, load
from truetune.models import tokenizer
from truetune.models.tokenizer import Tokenizer
from truetune.train.session import find_model

CONFIG = (".yml", ".yaml")


def settings(data: str | Sequence[str], model: str | None, folder: Path | None, values: dict[str, Any]) -> Loaded:
    """The configuration that `ft train --model … --data …` would have with these values of its `data` section; of a
    train.yml in place of the data, what it says. Values that are None are not given.

    Raises ConfigErrors for values that are not allowed, InputError for a train.yml that can't be read.
    """
    paths = [data] if isinstance(data, str) else list(data)
    given = {f"data.{key}": value for key, value in values.items() if value is not None}
    if len(paths) == 1 and paths[0].endswith(CONFIG):
        return load((folder or Path()) / paths[0], (), given | {"model": model})
    found = load(None, (), {"model": model or "starter", "data.path": paths[0] if len(paths) == 1 else paths, **given})
    return found if folder is None else replace(found, folder=folder)


def encoder(loaded: Loaded) -> Tokenizer:
    """The tokenizer of the configuration's model. Raises InputError."""
    return tokenizer.load(find_model(loaded.config, loaded.folder).folder)
