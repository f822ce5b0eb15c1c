"""What travels with an export: the files of a model, of an adapter, and of the tokenizer and template beside them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from truetune.engines import adapter as adapters
from truetune.models import source

BESIDE = tuple(name for name in source.DEFINING if name != "config.json")


def model(folder: Path, target: Path) -> None:
    """All that defines a model, links followed, with its card."""
    copy([*source.files(folder), *card(folder)], target)


def adapter(folder: Path, target: Path) -> None:
    """An adapter in PEFT's layout, with its card. Raises InputError as `adapter.read_config`."""
    adapters.read_config(folder, adapters.KINDS)
    copy([folder / adapters.CONFIG, folder / adapters.WEIGHTS, *card(folder)], target)
    companions(folder, target)


def card(folder: Path) -> list[Path]:
    return [path for path in [folder / "README.md"] if path.is_file()]


def companions(folder: Path, target: Path) -> None:
    """Tokenizer, template and settings of generation, where an adapter brings them."""
    copy((folder / name for name in BESIDE if (folder / name).is_file()), target)


def copy(paths: Iterable[Path], target: Path) -> None:
    for path in paths:
        shutil.copyfile(path, target / path.name)
