"""The operations on files that durability rests on, one method each, and what to say where a disk refuses them.

`durable` changes the disk by nothing else, so here tests record what it does, and let it fail.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from truetune.errors import ResourceError

_FULL = {errno.ENOSPC, errno.EDQUOT}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}


class Disk:
    """The operating system's own. Every method raises OSError as the system does."""

    def create(self, path: Path) -> int:
        """A handle to a new file; an existing name or link is never followed."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)

    def extend(self, path: Path) -> int:
        """A handle that writes at the end of a file, which is made where it is missing."""
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, handle: int, data: memoryview) -> int:
        """Bytes that were taken: possibly fewer than given."""
        return os.write(handle, data)

    def flush(self, handle: int) -> None:
        """fsync; on macOS that leaves the data in the drive's cache, and F_FULLFSYNC does not."""
        full = getattr(fcntl, "F_FULLFSYNC", None)
        if full is not None:
            with suppress(OSError):  # network disks do not know it
                fcntl.fcntl(handle, full)
                return
        os.fsync(handle)

    def sync(self, path: Path) -> None:
        """A file's bytes, or a folder's names, are on the disk when this returns."""
        handle = os.open(path, os.O_RDONLY)
        try:
            self.flush(handle)
        finally:
            os.close(handle)

    def truncate(self, file: Path | int, size: int) -> None:
        """Cut a file, given by path or handle."""
        os.truncate(file, size)

    def rename(self, source: Path, target: Path) -> None:
        """A file takes the place of one that is there; a folder only that of an empty one."""
        os.rename(source, target)

    def link(self, source: Path, target: Path) -> None:
        """A second name of the same file."""
        os.link(source, target)

    def mkdir(self, path: Path) -> None:
        path.mkdir(mode=0o755)

    def chmod(self, path: Path, mode: int) -> None:
        path.chmod(mode)

    def unlink(self, path: Path) -> None:
        """Remove a file, if there is one."""
        path.unlink(missing_ok=True)

    def discard(self, folder: Path) -> None:
        """Remove a folder with all in it, as far as the system lets; what stays has a name that `sweep` clears."""
        shutil.rmtree(folder, ignore_errors=True)


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
