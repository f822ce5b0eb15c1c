"""What lies in the hub's cache on this disk: models by commit, what was pulled and how far, and their removal.

TrueTune keeps beside it, in `models/` of home, a record of every pull (`OWNER--NAME/COMMIT.json`: each file with its
size and hashes) and how far the last one is (`OWNER--NAME/pull.json`). Both only describe; the cache is the truth.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import psutil

from truetune import paths
from truetune.errors import TrueTuneError
from truetune.models import hub, listing
from truetune.models.listing import COMMIT, File

PULSE = 0.5
"""Least seconds between two states that are written."""
PREFIX = "models--"


@dataclass(frozen=True)
class Entry:
    """One model of the cache. Sizes are bytes on the disk; `partial` is of files that are not whole."""

    name: str
    folder: Path
    commits: dict[str, list[str]]
    """Commit -> names of branches and tags that mean it."""
    size: int
    partial: int
    used: float
    """When a file of it was last changed, in seconds since 1970."""


def storage(name: str) -> Path:
    """Where the hub's cache keeps a model."""
    return Path(hub.cache()) / (PREFIX + name.replace("/", "--"))


def notes(name: str) -> Path:
    """Where TrueTune keeps what it knows of a model's pulls."""
    return paths.home() / "models" / name.replace("/", "--")


def entries() -> list[Entry]:
    """Every model of the cache, by name; folders that are no such thing are left out."""
    root = Path(hub.cache())
    folders = sorted(root.glob(f"{PREFIX}*")) if root.is_dir() else []
    named = ((folder, folder.name.removeprefix(PREFIX).replace("--", "/")) for folder in folders if folder.is_dir())
    return [entry(name) for folder, name in named if hub.is_name(name) and storage(name) == folder]


def entry(name: str) -> Entry:
    place = storage(name)
    commits: dict[str, list[str]] = {path.name: [] for path in snapshots(place)}
    for path in sorted((place / "refs").rglob("*")) if (place / "refs").is_dir() else []:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            commit = path.read_text("utf-8").strip() if path.is_file() else ""
            commits.get(commit, []).append(path.relative_to(place / "refs").as_posix())
    inside = [path for part in ("blobs", "snapshots") for path in (place / part).rglob("*")]
    files = [(path, path.lstat()) for path in inside if path.is_file() and not path.is_symlink()]
    sizes = {path: status.st_size for path, status in files}
    return Entry(
        name,
        place,
        commits,
        sum(sizes.values()),
        sum(size for path, size in sizes.items() if path.name.endswith(".incomplete")),
        max((status.st_mtime for _, status in files), default=0.0),
    )


def snapshots(place: Path) -> list[Path]:
    folder = place / "snapshots"
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(
        path for path in found if COMMIT.fullmatch(path.name) and not path.is_symlink() and any(path.iterdir())
    )


def link(pointer: Path, blob: Path) -> None:
    """The file of a snapshot leads to its content, as huggingface_hub has it."""
    pointer.parent.mkdir(exist_ok=True)
    aside = pointer.with_name(f".{pointer.name}.{os.getpid()}")
    aside.unlink(missing_ok=True)
    aside.symlink_to(os.path.relpath(blob, pointer.parent))
    aside.replace(pointer)


def point(place: Path, revision: str | None, commit: str) -> None:
    """From now on the branch or tag means this commit here."""
    if revision == commit:
        return
    ref = place / "refs" / (revision or "main")
    ref.parent.mkdir(parents=True, exist_ok=True)
    aside = ref.with_name(f".{ref.name}.{os.getpid()}")
    aside.write_text(commit)
    aside.replace(ref)


def discard(place: Path, commit: str) -> int:
    """Take a commit out, with the files that no other commit has; returns the bytes. Partial files stay."""
    for ref in [path for path in (place / "refs").rglob("*") if path.is_file()]:
        if ref.read_text("utf-8", "replace").strip() == commit:
            ref.unlink()
    shutil.rmtree(place / "snapshots" / commit, ignore_errors=True)
    (place / "trees" / f"{commit}.json").unlink(missing_ok=True)
    return sweep(place, partial=False)


def sweep(place: Path, *, partial: bool) -> int:
    """Remove contents that no snapshot leads to, with `partial` also what is not whole; returns the bytes."""
    kept = {path.resolve() for each in snapshots(place) for path in each.rglob("*") if path.is_symlink()}
    freed = 0
    for blob in list((place / "blobs").glob("*")):
        if blob.resolve() in kept or (blob.name.endswith(".incomplete") and not partial):
            continue
        freed += blob.lstat().st_size
        blob.unlink(missing_ok=True)
    return freed


def remove(name: str, commit: str | None = None) -> int:
    """Take a model out of the cache, or one commit of it; returns the bytes that are free now."""
    place = storage(name)
    if commit is not None and len(snapshots(place)) > 1:
        (notes(name) / f"{commit}.json").unlink(missing_ok=True)
        return discard(place, commit)
    size = entry(name).size
    with hub.on_disk(place):
        if place.is_dir():
            aside = place.with_name(f".removed-{os.getpid()}-{place.name}")
            place.rename(aside)  # a crash leaves no half of a model
            shutil.rmtree(aside)
    shutil.rmtree(place.parent / ".locks" / place.name, ignore_errors=True)
    shutil.rmtree(notes(name), ignore_errors=True)
    return size


def record(name: str, revision: str | None, commit: str, files: Iterable[File]) -> None:
    """What was pulled, file by file."""
    place = storage(name) / "snapshots" / commit
    body = {
        "schema": 1,
        "name": name,
        "revision": revision or "main",
        "commit": commit,
        "time": time.time(),
        "files": {
            file.name: {
                "bytes": file.size,
                "hash": file.hash,
                "sha256": file.hash if len(file.hash) == 64 else listing.sha256(place / file.name),
            }
            for file in files
        },
    }
    write(notes(name) / f"{commit}.json", body)


def recorded(name: str, commit: str) -> dict[str, Any]:
    """The record of a pull; empty where there is none."""
    return load(notes(name) / f"{commit}.json")


@dataclass
class State:
    """How far a pull is, for everybody who watches it: `pull.json`."""

    name: str
    revision: str | None
    values: dict[str, Any] = field(default_factory=dict)
    written: float = 0.0

    def begin(self, commit: str) -> None:
        process = psutil.Process()
        self.tell(commit=commit, pid=process.pid, process_start=process.create_time(), started=time.time())

    def moved(self, here: int, total: int) -> None:
        self.values |= {"bytes": here, "total": total}
        if time.monotonic() - self.written > PULSE:
            self.tell()

    def tell(self, **changes: Any) -> None:
        """Nothing before it has begun: there may be no such model."""
        self.values |= changes
        self.written = time.monotonic()
        if "commit" not in self.values:
            return
        body = {"schema": 1, "name": self.name, "revision": self.revision or "main", "updated": time.time()}
        write(notes(self.name) / "pull.json", body | self.values)


@contextmanager
def reported(name: str, revision: str | None) -> Iterator[State]:
    """The state of a pull, written from its beginning to its end, whatever that is."""
    state = State(name, revision, {"state": "running", "bytes": 0, "total": None, "error": None})
    try:
        yield state
    except BaseException as error:
        told = error.to_json() if isinstance(error, TrueTuneError) else {"code": "stopped", "message": "stopped"}
        state.tell(state="failed", error=told)
        raise
    state.tell(state="finished")


def state(name: str) -> dict[str, Any] | None:
    """How far the last pull of a model is; a running one whose process is gone is `interrupted`."""
    found = load(notes(name) / "pull.json")
    if not found:
        return None
    return found | {"state": "interrupted"} if found.get("state") == "running" and not alive(found) else found


def states() -> list[dict[str, Any]]:
    """Of all models that were ever pulled here."""
    root = paths.home() / "models"
    names = sorted(path.parent.name.replace("--", "/") for path in root.glob("*/pull.json"))
    return [found for found in map(state, filter(hub.is_name, names)) if found]


def alive(found: dict[str, Any]) -> bool:
    try:
        return bool(abs(psutil.Process(found.get("pid", -1)).create_time() - found.get("process_start", 0)) < 1.5)
    except (psutil.Error, ValueError, TypeError):
        return False


def load(path: Path) -> dict[str, Any]:
    """The object in a file; empty where there is none that can be read."""
    try:
        value = orjson.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write(path: Path, value: dict[str, Any]) -> None:
    """Aside and into place. What it says can be found again, so a home that takes nothing stops no pull."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        aside.write_bytes(orjson.dumps(value, option=orjson.OPT_INDENT_2))
        aside.replace(path)
