"""Digests of large files, remembered, so that a base model is not hashed anew for every conversation.

A file is taken for the one that was hashed where its place, size, both its times, inode and device are those of then.
That notices every change but one made to deceive, so what proves something (receipts, `ft receipt verify`) hashes
always. The memory is `digests.json` in the cache: [{place, size, mtime, ctime, inode, device, sha256}], oldest first.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from truetune import paths
from truetune.errors import ResourceError
from truetune.runs import durable, jsonfile

SMALLEST = 2**20
"""Bytes below which remembering costs more than hashing."""
MOST = 256
"""Files that are remembered."""
SETTLED = 2.0
"""Seconds that a file must have been left alone: a disk's clock may not tell two changes within this time apart."""

Entry = dict[str, Any]


def digests(files: Iterable[Path], *, trust: bool = True) -> dict[Path, str | None]:
    """{file: sha256 in hex}; None for one that cannot be read. `trust=False` hashes all, and remembers them too."""
    kept = read()
    fresh: dict[str, Entry] = {}
    found = {file: _digest(file, kept if trust else {}, fresh) for file in files}
    if fresh:
        _write([*(entry for place, entry in kept.items() if place not in fresh), *fresh.values()])
    return found


def read() -> dict[str, Entry]:
    """Place -> entry; empty where there is no memory, or a damaged one."""
    try:
        entries = (jsonfile.parse(_place().read_bytes()) or {}).get("files")
    except OSError:
        return {}
    whole = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    return {entry["place"]: entry for entry in whole if isinstance(entry.get("place"), str)}


def _digest(file: Path, kept: dict[str, Entry], fresh: dict[str, Entry]) -> str | None:
    try:
        before = _marks(file)
        known = kept.get(before["place"], {})
        if before.items() <= known.items() and isinstance(known.get("sha256"), str):
            return str(known["sha256"])
        started, sha256 = time.time(), durable.digest(file)
        settled = max(before["mtime"], before["ctime"]) < (started - SETTLED) * 1e9
        if settled and before["size"] >= SMALLEST and _marks(file) == before:
            fresh[before["place"]] = before | {"sha256": sha256}
    except OSError:
        return None
    return sha256


def _marks(file: Path) -> Entry:
    """What a changed file does not share with the one before. Links are followed: the hub's cache is made of them."""
    place = file.resolve()
    seen = place.stat()
    times = {"mtime": seen.st_mtime_ns, "ctime": seen.st_ctime_ns}
    return {"place": str(place), "size": seen.st_size, **times, "inode": seen.st_ino, "device": seen.st_dev}


def _write(entries: list[Entry]) -> None:
    """A home that cannot be written is no reason to fail: the next one hashes again."""
    with suppress(OSError, ResourceError):
        _place().parent.mkdir(parents=True, exist_ok=True)
        durable.write_json(_place(), {"schema": 1, "files": entries[-MOST:]})


def _place() -> Path:
    return paths.cache() / "digests.json"
