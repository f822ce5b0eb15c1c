"""What was downloaded from one address: the file, named by the address and its version, and a note of the latest."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import orjson

from truetune import paths

ASIDE = 24 * 3600
"""Seconds after which what a broken download has left belongs to nobody."""
NAME = 80
"""Characters of the file's own name that are kept, from its end."""


class Store:
    """A place under home for the file at an address; `name` is what the file is called there."""

    def __init__(self, address: str, name: str) -> None:
        self.address, self.name = address, re.sub(r"[^\w.-]", "_", name)[-NAME:]
        self.folder = paths.cache() / "downloads"
        self.note = self.folder / f"{self._hash('')}.json"

    @property
    def etag(self) -> str:
        """The version that is here, empty if there is none."""
        return str(self.noted().get("etag", "")) if self.latest() else ""

    def latest(self) -> Path | None:
        """The file that was kept last, if it is still there as a whole."""
        found = self.noted()
        path = self.folder / str(found.get("file", ""))
        with contextlib.suppress(OSError):
            if found and path.stat().st_size == found["bytes"]:
                return path
        return None

    def keep(self, blocks: Iterable[bytes], shown: str, etag: str) -> Path:
        """Write the file aside and put it in its place, then the note. Raises OSError, and what `blocks` raises."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._sweep()
        digest = hashlib.sha256()
        with self._aside() as (stream, aside):
            for block in blocks:
                digest.update(block)
                stream.write(block)
            size = stream.tell()
            stream.close()
            path = self.folder / f"{self._hash(etag or digest.hexdigest())}-{self.name}"
            os.replace(aside, path)
        self.write({"address": shown, "etag": etag, "file": path.name, "bytes": size})
        return path

    def noted(self) -> dict[str, Any]:
        """What is known of the address; empty if nothing is."""
        try:
            found = orjson.loads(self.note.read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def write(self, known: dict[str, Any]) -> None:
        """Note what is known of the address. Raises OSError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._aside() as (stream, aside):
            stream.write(orjson.dumps(known))
            stream.close()
            os.replace(aside, self.note)

    @contextmanager
    def _aside(self) -> Iterator[tuple[IO[bytes], str]]:
        number, name = tempfile.mkstemp(prefix=".part-", dir=self.folder)
        try:
            with os.fdopen(number, "wb") as stream:
                yield stream, name
        finally:
            with contextlib.suppress(OSError):
                os.unlink(name)

    def _sweep(self) -> None:
        for path in self.folder.glob(".part-*"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > ASIDE:
                    path.unlink()

    def _hash(self, version: str) -> str:
        return hashlib.sha256(f"{self.address}\n{version}".encode()).hexdigest()[:32]
