"""The one module that writes results to disk, so that whatever was there before survives a crash or a full disk.

A file or folder is written aside in the folder it will live in, fsynced, and renamed into place; then the parent
folder is fsynced, because a rename is only as durable as the folder that records it. A failed fsync is never tried
again (the kernel marks the lost pages clean; Rebello et al., ATC 2020): what was written is thrown away.

A committed folder is whole exactly when its `manifest.json`, written last, agrees with every file in it. Whatever
changes the disk goes through `disk`, which tests replace by one that records or fails.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from truetune.runs import jsonfile
from truetune.runs.disk import Disk
from truetune.runs.disk import explained as explained  # for those who write by other means

disk = Disk()
MANIFEST = "manifest.json"
_SWAPPED = re.compile(r"\.old-(?P<name>.+)-[0-9a-f]{8}")
LINKED = 2**16
"""Bytes from which on a file that did not change is linked and not kept twice. Damage to a linked file is damage to
every folder that has it, so small ones are not worth it."""


def write(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Replace the file by these bytes: readers see the old ones or the new ones, never a mixture.

    `sync=False` leaves out the fsyncs, for heartbeats whose loss in a power cut does no harm.
    """
    aside = _aside(path)
    try:
        with explained(path):
            create(aside, data, sync=sync)
            disk.rename(aside, path)
            if sync:
                disk.sync(path.parent)
    finally:
        with suppress(OSError):  # it was renamed, or the disk takes nothing, not even this; `sweep` clears it then
            disk.unlink(aside)


def write_json(path: Path, value: Any, *, sync: bool = True) -> bytes:
    """`write` the canonical JSON of a value; returns the bytes."""
    data = jsonfile.dumps(value)
    write(path, data, sync=sync)
    return data


def append(path: Path, data: bytes) -> None:
    """Add bytes to the end in one write; where the disk does not take all of them, the file stays as it was.

    Not fsynced: appended files are logs, and their readers put up with a lost tail; `settle` where they must not.
    """
    with explained(path):
        handle = disk.extend(path)
        try:
            before = os.fstat(handle).st_size
            try:
                _write_all(handle, data)
            except OSError:
                disk.truncate(handle, before)
                raise
        finally:
            os.close(handle)


def truncate(path: Path, size: int) -> None:
    """Cut a file to `size` bytes, durably."""
    with explained(path):
        disk.truncate(path, size)
        disk.sync(path)


def settle(path: Path) -> None:
    """What was appended to a file, and its name, outlive a power cut from now on. A file that is missing has none."""
    with explained(path), suppress(FileNotFoundError):
        disk.sync(path)
        disk.sync(path.parent)


def folder(path: Path) -> Path:
    """A folder that is there, durably: each folder that was missing on the way is made and synced into its parent."""
    with explained(path):
        missing = [each for each in (path, *path.parents) if not each.exists()]
        for each in reversed(missing):
            with suppress(FileExistsError):  # somebody else made it meanwhile
                disk.mkdir(each)
            disk.sync(each.parent)
    return path


def commit(
    target: Path, fill: Callable[[Path], None], *, replace: bool = False, like: Path | None = None
) -> dict[str, Any]:
    """Make a folder that appears whole or not at all; returns its manifest.

    `fill(folder)` writes regular files into a folder beside the target. Every file is fsynced and hashed, then
    `manifest.json` is written: {"schema": 1, "files": {relative path: {"sha256", "bytes"}}}. An existing target is
    refused (FileExistsError) unless `replace` says otherwise; it is then renamed aside, and removed at the end.
    Large files that are byte for byte those of `like`, a committed folder on the same disk, are linked to them.
    """
    manifest: dict[str, Any] = {"schema": 1, "files": {}}

    def seal(folder: Path) -> None:
        manifest["files"] = _entries(folder)
        if like is not None:
            _link(folder, manifest["files"], like)
        _sync_files(folder)
        create(folder / MANIFEST, jsonfile.dumps(manifest), sync=True)

    _build(target, fill, seal, replace)
    return manifest


def place(target: Path, fill: Callable[[Path], None], *, replace: bool = False) -> None:
    """`commit` without a manifest: for a folder whose files change later."""
    _build(target, fill, _sync_files, replace)


def move(source: Path, target: Path) -> None:
    """Rename within one disk, durably; the folders of both exist."""
    with explained(target):
        disk.rename(source, target)
        disk.sync(target.parent)
        if source.parent != target.parent:
            disk.sync(source.parent)


def remove(folder: Path) -> None:
    """Delete a folder, if there is one; a crash leaves a name that `sweep` clears, never half of a folder."""
    if not folder.exists():
        return
    aside = _aside(folder)
    move(folder, aside)
    disk.discard(aside)


def sweep(parent: Path) -> None:
    """Clear what a crash left in a folder. Call it while nobody else writes there (a run: under its lock).

    A folder that was swapped out for a replacement which never arrived goes back to its place.
    """
    for entry in sorted(parent.glob(".old-*")):
        swapped = _SWAPPED.fullmatch(entry.name)
        if swapped and not (parent / swapped["name"]).exists():
            move(entry, parent / swapped["name"])
        elif swapped:
            disk.discard(entry)
    for entry in parent.glob(".tmp-*"):
        if entry.is_dir() and not entry.is_symlink():
            disk.discard(entry)
        else:
            disk.unlink(entry)


def check(folder: Path) -> list[str]:
    """Names of files that are missing, changed or extra against the folder's manifest; empty = whole."""
    try:
        written = (folder / MANIFEST).read_bytes()
    except OSError:
        return [MANIFEST]
    promised = (jsonfile.parse(written) or {}).get("files")
    if not isinstance(promised, dict) or jsonfile.dumps({"schema": 1, "files": promised}) != written:
        return [MANIFEST]  # other bytes than `commit` writes: damaged, even where it still reads as JSON
    found = {name: path for name, path in _walk(folder) if name != MANIFEST}
    return sorted(name for name in promised.keys() | found.keys() if not _agrees(found.get(name), promised.get(name)))


def digest(path: Path) -> str:
    """sha256 of a file in hex, read in pieces. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digests(paths: Iterable[Path], root: Path | None = None) -> dict[str, str]:
    """{path: sha256}, the paths relative to `root` where one is given."""
    return {(path.relative_to(root) if root else path).as_posix(): digest(path) for path in paths}


def _build(target: Path, fill: Callable[[Path], None], seal: Callable[[Path], None], replace: bool) -> None:
    if target.exists() and not replace and any(target.iterdir()):
        raise FileExistsError(errno.EEXIST, "the folder is there already", str(target))
    aside = _aside(target)
    try:
        with explained(target):
            folder(target.parent)
            disk.mkdir(aside)
            fill(aside)
            mode = aside.stat().st_mode & 0o666  # what the umask leaves; safetensors makes its files private
            for _, path in _walk(aside):
                if not path.is_symlink():
                    disk.chmod(path, mode)
            seal(aside)
            for place, _, _ in os.walk(aside):
                disk.sync(Path(place))
            _install(aside, target)
    finally:
        disk.discard(aside)


def _sync_files(folder: Path) -> None:
    for _, path in _walk(folder):
        disk.sync(path)


def _link(folder: Path, entries: dict[str, Any], like: Path) -> None:
    """Put links in the place of large files that `like` has too, after reading these there. On a disk that knows no
    links, or allows no more of a file, they stay as they are."""
    for name, entry in entries.items():
        if entry["bytes"] < LINKED or not _agrees(like / name, entry):
            continue
        aside = (folder / name).with_name(f".link-{Path(name).name}")
        try:
            disk.link(like / name, aside)
        except OSError:
            disk.unlink(aside)  # network disks may report a failure of what they did
        else:
            disk.rename(aside, folder / name)


def _install(aside: Path, target: Path) -> None:
    """Rename into place. Two renames where there is something to replace: `sweep` repairs a crash between them."""
    swapped = None
    if target.exists() and any(target.iterdir()):
        swapped = _aside(target, "old")
        disk.rename(target, swapped)
    try:
        disk.rename(aside, target)
    except OSError:
        if swapped:
            disk.rename(swapped, target)
        raise
    disk.sync(target.parent)
    if swapped:
        disk.discard(swapped)


def _aside(path: Path, kind: str = "tmp") -> Path:
    return path.parent / f".{kind}-{path.name}-{secrets.token_hex(4)}"


def create(path: Path, data: bytes, *, sync: bool = False) -> None:
    """A new file, as `fill` of a commit writes it: what commits the folder syncs it too."""
    handle = disk.create(path)
    try:
        _write_all(handle, data)
        if sync:
            disk.flush(handle)
    finally:
        os.close(handle)


def _write_all(handle: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[disk.write(handle, left) :]


def _walk(folder: Path) -> Iterator[tuple[str, Path]]:
    """Everything in a folder that is not a folder, sorted, with its relative name; links are not followed."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_dir():
            yield path.relative_to(folder).as_posix(), path


def _entry(path: Path) -> dict[str, Any] | None:
    """A manifest's line for a file; None for a link or a device, which no manifest promises."""
    if path.is_symlink() or not path.is_file():
        return None
    return {"sha256": digest(path), "bytes": path.stat().st_size}


def _agrees(path: Path | None, promised: Any) -> bool:
    try:
        return path is not None and promised is not None and _entry(path) == promised
    except OSError:
        return False


def _entries(folder: Path) -> dict[str, Any]:
    entries = {name: _entry(path) for name, path in _walk(folder)}
    odd = [name for name, entry in entries.items() if entry is None]
    if odd:
        raise ValueError(f"a committed folder holds regular files only, not {odd}")
    return entries
