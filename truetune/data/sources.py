"""Which files a `data.path` means, and what they are: size and sha256."""

from __future__ import annotations

import difflib
import glob
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from io import BufferedReader
from pathlib import Path

from truetune.data import hub, remote
from truetune.data.readers import READERS, readable
from truetune.data.reading import packed
from truetune.errors import InputError

DESCRIPTION = "dataset_info"
ABOUT = ("readme", "license", "changelog", DESCRIPTION)
"""How names of files begin that say something of a folder."""
MEASURED = re.compile(r"(validation|valid|val|dev|eval)([^a-z]|$)", re.IGNORECASE)
"""How names of files begin that are there to measure on."""


ADDRESS = r"[a-zA-Z][a-zA-Z0-9+.-]*://"


@dataclass(frozen=True)
class Source:
    """A file of rows. `name` is how it is shown: short, and the same from wherever the command is run."""

    path: Path
    name: str
    bytes: int
    weight: float = 1.0
    """How often an epoch sees its rows."""

    @cached_property
    def sha256(self) -> str:
        """Of the file as it is when first asked for: a large one takes seconds, and not every verb asks. Raises
        InputError `data.unreadable`."""
        with _opened(self.path) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()


def find(names: Sequence[str], folder: Path, split: str = "train", weights: Sequence[float] = ()) -> list[Source]:
    """The files that are meant, in the order given, a folder's in alphabetical order; each file once, with the weight
    of the first name that means it (`weights` has one for each name, or none at all).

    A relative name is looked for in `folder` (where train.yml stands), then in the working folder. An address
    (`https://…`, `hf://datasets/…`) is fetched. Raises InputError: `data.missing`, `data.ambiguous`,
    `data.unsupported_format`, `data.unreadable`, and what `remote.fetch` and `hub.fetch` raise.
    """
    meant: dict[Path, tuple[str, float]] = {}
    for name, weight in zip(names, weights or [1.0] * len(names), strict=True):
        for path, shown in _places(name, folder, split):
            meant.setdefault(Path(os.path.abspath(path)), (shown, weight))
    roots = (folder, Path())
    found = [_source(path, shown or _shown(path, roots), weight) for path, (shown, weight) in meant.items()]
    names_ = Counter(source.name for source in found)
    return [source if names_[source.name] == 1 else replace(source, name=str(source.path)) for source in found]


def left_out(names: Sequence[str], folder: Path, split: str = "train") -> list[tuple[Path, str]]:
    """Files that stand in the folders that are meant and could be read, but are not: other splits, and those named like
    a readme. Each with how it is shown."""
    found = []
    for name in names:
        if (re.match(ADDRESS, name) is None) and len(places := _existing(name, folder)) == 1 and places[0].is_dir():
            chosen = _inside(places[0], split)
            others = (path for path in _readable(places[0]) if path not in chosen)
            found += [path for path in others if not path.name.lower().startswith((".", DESCRIPTION))]
    return [(path, _shown(Path(os.path.abspath(path)), (folder, Path()))) for path in found]


def _places(name: str, folder: Path, split: str) -> list[tuple[Path, str]]:
    """The files that a name means, those of addresses with how they are shown."""
    if name.lower().startswith(hub.SCHEME):
        return hub.fetch(name, split)
    if re.match(ADDRESS, name):
        shown = remote.shown(name)
        _check_suffix(Path(shown))
        return [(remote.fetch(name), shown)]
    return [(path, "") for path in _expand(name, folder, split)]


def _expand(name: str, folder: Path, split: str) -> list[Path]:
    if glob.has_magic(name) and not _existing(name, folder):
        return _matches(name, folder)
    path = _one(name, folder)
    if path.is_dir():
        return _inside(path, split)
    _check_suffix(path)
    return [path]


def _existing(name: str, folder: Path) -> list[Path]:
    """Where a name stands: beside train.yml, in the working folder, or both."""
    path = Path(name).expanduser()
    places = [path] if path.is_absolute() else [folder / path, path]
    found: list[Path] = []
    for place in places:
        if place.exists() and not any(place.samefile(other) for other in found):
            found.append(place)
    return found


def _one(name: str, folder: Path) -> Path:
    found = _existing(name, folder)
    if not found:
        raise _missing(name, folder)
    if len(found) > 1:
        places = " and ".join(str(path.resolve()) for path in found)
        raise InputError(
            f"{name} stands in two places: {places}",
            code="data.ambiguous",
            where="data.path",
            hint="Write the full path of the one you mean.",
        )
    return found[0]


def _matches(pattern: str, folder: Path) -> list[Path]:
    for root in (folder, Path()):
        found = sorted(glob.glob(pattern, root_dir=root, recursive=True))
        files = [root / name for name in found if (root / name).is_file()]
        if files:
            for path in files:
                _check_suffix(path)
            return files
    raise InputError(
        f"no file matches {pattern}",
        code="data.missing",
        where="data.path",
        hint=f"It was looked for in {folder.resolve()} and where you stand.",
    )


def _inside(folder: Path, split: str) -> list[Path]:
    """A folder's files of one split; all of them where none is named after the training split."""
    files = [path for path in _readable(folder) if not _about(path)]
    chosen = [path for path in files if path.stem.lower().startswith(split.lower())]
    if not chosen and split in ("train", "validation"):
        chosen = files
    if not chosen:
        raise InputError(
            f"the folder has no file for the split {split!r}" if files else "the folder has no file with rows",
            code="data.missing",
            where=str(folder),
            hint=f"Files that are read: {_supported()}.",
        )
    return chosen


def _readable(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if readable(path) and path.is_file())


def _about(path: Path) -> bool:
    """Whether a file says something of the folder and holds no rows of it."""
    return path.name.startswith(".") or path.name.lower().startswith(ABOUT)


def _check_suffix(path: Path) -> None:
    if not readable(path):
        raise InputError(
            f"{path.suffix or 'a file without a suffix'} is not a format that can be read",
            code="data.unsupported_format",
            where=str(path),
            hint=f"Supported: {_supported()}.",
        )


def _missing(name: str, folder: Path) -> InputError:
    path = Path(name).expanduser()
    parents = dict.fromkeys([(folder / path).parent, path.parent])
    near = [entry.name for parent in parents if parent.is_dir() for entry in parent.iterdir()]
    close = difflib.get_close_matches(path.name, near, n=1, cutoff=0.6)
    places = " or ".join(dict.fromkeys(str(parent.resolve()) for parent in parents))
    hint = f"Did you mean {close[0]}?" if close else f"It was looked for in {places}."
    return InputError("there is no such file or folder", code="data.missing", where=name, hint=hint)


def _source(path: Path, name: str, weight: float) -> Source:
    if not path.is_file():  # a pipe can be read only once, and the rows are read several times
        hint = "Save the rows in a file."
        raise InputError("this is no ordinary file", code="data.unreadable", where=str(path), hint=hint)
    with _opened(path) as stream:
        return Source(path, name, os.fstat(stream.fileno()).st_size, weight)


@contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    """Raises InputError `data.unreadable`."""
    try:
        with path.open("rb") as stream:
            yield stream
    except OSError as error:
        hint = "Check its permissions."
        raise InputError(
            f"can't be read: {error.strerror}", code="data.unreadable", where=str(path), hint=hint
        ) from error


def _shown(path: Path, roots: Iterable[Path]) -> str:
    for root in roots:
        if path.is_relative_to(root.absolute()):
            return str(path.relative_to(root.absolute()))
    return str(path)


def _supported() -> str:
    return f"{', '.join(sorted(READERS))}; texts packed with {' or '.join(packed.SUFFIXES)} too"
