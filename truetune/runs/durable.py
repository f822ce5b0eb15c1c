"""The one module that writes results to disk, so that whatever was there before survives a crash or a full disk.

A file or folder is written aside in the folder it will live in, fsynced, and renamed into place; then the parent
folder is fsynced, because a rename is only as durable as the folder that records it. A failed fsync is never tried
again (the kernel marks the lost pages clean; Rebello et al., ATC 2020): what was written is thrown away.

A committed folder is whole exactly when its `manifest.json`, written last, agrees with every file in it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from truetune.errors import ResourceError
from truetune.runs import jsonfile

MANIFEST = "manifest.json"
_SWAPPED = re.compile(r"\.old-(?P<name>.+)-[0-9a-f]{8}")
_FULL = {errno.ENOSPC, errno.EDQUOT}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}


def write(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Replace the file by these bytes: readers see the old ones or the new ones, never a mixture.

    `sync=False` leaves out the fsyncs, for heartbeats whose loss in a power cut does no harm.
    """
    aside = _aside(path)
    try:
        with explained(path):
            _write(aside, data, sync)
            os.replace(aside, path)
            if sync:
                _sync(path.parent)
    finally:
        with suppress(OSError):  # it was renamed, or the disk takes nothing, not even this; `sweep` clears it then
            aside.unlink()


def write_json(path: Path, value: Any, *, sync: bool = True) -> bytes:
    """`write` the canonical JSON of a value; returns the bytes."""
    data = jsonfile.dumps(value)
    write(path, data, sync=sync)
    return data


def append(path: Path, data: bytes) -> None:
    """Add bytes to the end in one write; where the disk does not take all of them, the file stays as it was.

    Not fsynced: appended files are logs, and their readers put up with a lost tail.
    """
    with explained(path):
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            before = os.fstat(handle).st_size
            try:
                _write_all(handle, data)
            except OSError:
                os.ftruncate(handle, before)
                raise
        finally:
            os.close(handle)


def truncate(path: Path, size: int) -> None:
    """Cut a file to `size` bytes, durably."""
    with explained(path):
        os.truncate(path, size)
        _sync(path)


def commit(target: Path, fill: Callable[[Path], None], *, replace: bool = False) -> dict[str, Any]:
    """Make a folder that appears whole or not at all; returns its manifest.

    `fill(folder)` writes regular files into a folder beside the target. Every file is fsynced and hashed, then
    `manifest.json` is written: {"schema": 1, "files": {relative path: {"sha256", "bytes"}}}. An existing target is
    refused (FileExistsError) unless `replace` says otherwise; it is then renamed aside, and removed at the end.
    """
    manifest: dict[str, Any] = {"schema": 1, "files": {}}

    def seal(folder: Path) -> None:
        manifest["files"] = _entries(folder)
        _write(folder / MANIFEST, jsonfile.dumps(manifest), sync=True)

    _build(target, fill, seal, replace)
    return manifest


def place(target: Path, fill: Callable[[Path], None], *, replace: bool = False) -> None:
    """`commit` without a manifest: for a folder whose files change later."""
    _build(target, fill, lambda folder: None, replace)


def move(source: Path, target: Path) -> None:
    """Rename within one disk, durably; the folders of both exist."""
    with explained(target):
        os.rename(source, target)
        _sync(target.parent)
        if source.parent != target.parent:
            _sync(source.parent)


def remove(folder: Path) -> None:
    """Delete a folder, if there is one; a crash leaves a name that `sweep` clears, never half of a folder."""
    if not folder.exists():
        return
    aside = _aside(folder)
    move(folder, aside)
    shutil.rmtree(aside, ignore_errors=True)


def sweep(parent: Path) -> None:
    """Clear what a crash left in a folder. Call it while nobody else writes there (a run: under its lock).

    A folder that was swapped out for a replacement which never arrived goes back to its place.
    """
    for entry in sorted(parent.glob(".old-*")):
        swapped = _SWAPPED.fullmatch(entry.name)
        if swapped and not (parent / swapped["name"]).exists():
            move(entry, parent / swapped["name"])
        elif swapped:
            shutil.rmtree(entry, ignore_errors=True)
    for entry in parent.glob(".tmp-*"):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


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


@contextmanager
def explained(where: Path) -> Iterator[None]:
    """Turn what a disk does to us (full, read-only, failing) into a ResourceError that says what to do.

    Libraries in Rust (safetensors) report a full disk in the text of their own error only.
    """
    try:
        yield
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else _number(str(error))
        if number in _FULL:
            raise _full(where) from error
        if number in _DENIED:
            raise ResourceError(
                f"this place cannot be written: {os.strerror(number)}",
                code="disk.denied",
                where=str(where),
                hint="choose another place with output.dir, or change its permissions",
            ) from error
        if number == errno.EIO:
            raise ResourceError(
                "the disk reported a failure while writing; what was written there before is kept",
                code="disk.failed",
                where=str(where),
                hint="check the disk, or choose a place on another one with output.dir",
            ) from error
        raise


def _full(where: Path) -> ResourceError:
    folder = next((parent for parent in where.absolute().parents if parent.exists()), Path("/"))
    free = shutil.disk_usage(folder).free / 1e6
    return ResourceError(
        "no space is left on the disk; everything saved before is whole",
        code="disk.full",
        where=str(where),
        hint=f"{free:,.1f} MB are free: free some more, lower checkpoints.keep, or put output.dir on another disk",
    )


def _number(text: str) -> int | None:
    """The errno in the text of an error that came out of Rust: `… (os error 28)`."""
    match = re.search(r"\(os error (\d+)\)", text)
    return int(match[1]) if match else None


def _build(target: Path, fill: Callable[[Path], None], seal: Callable[[Path], None], replace: bool) -> None:
    if target.exists() and not replace and any(target.iterdir()):
        raise FileExistsError(errno.EEXIST, "the folder is there already", str(target))
    aside = _aside(target)
    try:
        with explained(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            aside.mkdir(mode=0o755)
            fill(aside)
            mode = aside.stat().st_mode & 0o666  # what the umask leaves; safetensors makes its files private
            for _, path in _walk(aside):
                if not path.is_symlink():
                    path.chmod(mode)
                _sync(path)
            seal(aside)
            for folder, _, _ in os.walk(aside):
                _sync(Path(folder))
            _install(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _install(aside: Path, target: Path) -> None:
    """Rename into place. Two renames where there is something to replace: `sweep` repairs a crash between them."""
    swapped = None
    if target.exists() and any(target.iterdir()):
        swapped = _aside(target, "old")
        os.rename(target, swapped)
    try:
        os.rename(aside, target)
    except OSError:
        if swapped:
            os.rename(swapped, target)
        raise
    _sync(target.parent)
    if swapped:
        shutil.rmtree(swapped, ignore_errors=True)


def _aside(path: Path, kind: str = "tmp") -> Path:
    return path.parent / f".{kind}-{path.name}-{secrets.token_hex(4)}"


def _write(path: Path, data: bytes, sync: bool) -> None:
    """A new file with these bytes; an existing name or link is never followed."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        _write_all(handle, data)
        if sync:
            _flush(handle)
    finally:
        os.close(handle)


def _write_all(handle: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(handle, left) :]


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        _flush(handle)
    finally:
        os.close(handle)


def _flush(handle: int) -> None:
    """fsync; on macOS that leaves the data in the drive's cache, and F_FULLFSYNC does not."""
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:
        with suppress(OSError):  # network disks do not know it
            fcntl.fcntl(handle, full)
            return
    os.fsync(handle)


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
