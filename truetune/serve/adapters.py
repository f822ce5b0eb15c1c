"""Adapters by content: which are ready on the device, which in memory, and which only in their folders.

A version is a digest over an adapter's files. Names point to versions; a request keeps the version that its name
pointed to when it came. What no name and no request holds is forgotten.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from truetune.engines import adapter
from truetune.engines.base import OutOfMemory
from truetune.engines.decoder import Decoder, Prepared
from truetune.errors import InputError, ResourceError, TrueTuneError
from truetune.serve.requests import Limits


@dataclass(eq=False)
class Version:
    """The content of an adapter's folder."""

    digest: str
    folder: Path
    mixed: bool
    uses: int = 0
    """Names and requests that hold it."""
    fetch: Future[Prepared] | None = None
    """It is being read again, since there was no room to keep it in memory."""


def digest(folder: Path) -> str:
    """sha256 over an adapter's two files, or its only one."""
    found = hashlib.sha256()
    for path in (folder, folder / adapter.CONFIG, folder / adapter.WEIGHTS):
        if path.is_file():
            with path.open("rb") as file:
                found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()


class Shelf:
    """The versions of one decoder. `read` and `keep` are for any thread, the rest for the decoder's."""

    def __init__(self, decoder: Decoder, limits: Limits, stir: Callable[[], None]) -> None:
        self.decoder, self.limits, self.stir = decoder, limits, stir
        self.versions: dict[str, Version] = {}
        self.host: OrderedDict[str, Prepared] = OrderedDict()
        self.device: OrderedDict[str, None] = OrderedDict()
        self.lock = Lock()
        """Of what is in memory."""
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="adapters")

    def read(self, folder: Path) -> tuple[str, Prepared]:
        """An adapter's digest and content. Raises as `Decoder.read`, and InputError `adapter.changed`."""
        before = digest(folder)
        found = self.host.get(before) or self.decoder.read(folder)
        if digest(folder) != before:
            raise changed(folder)
        return before, found

    def keep(self, name: str, folder: Path, found: Prepared) -> Version:
        """A version that was read. Whoever calls has `changed`, and says what it is held for before letting go."""
        version = self.versions.setdefault(name, Version(name, folder, found.mixed))
        version.folder = folder
        self.hold(name, found)
        return version

    def hold(self, name: str, found: Prepared) -> None:
        with self.lock:
            self.host[name] = found
            self.host.move_to_end(name)
            while len(self.host) > self.limits.on_host:
                self.host.popitem(last=False)

    def ready(self, version: Version, used: Collection[str]) -> bool:
        """Have a version on the device; the longest unused one makes room, never one that is `used` by a row. False
        where it is still being read, or all are used. Raises what reading it again has raised."""
        name = version.digest
        if name in self.device:
            self.device.move_to_end(name)
            return True
        found = self.host.get(name) or self.fetched(version)
        if found is None or not self.room(used):
            return False
        self.hold(name, found)
        self.put(name, found, used)
        return True

    def room(self, used: Collection[str]) -> bool:
        """Make room for one more on the device; False where all are used."""
        while len(self.device) >= self.limits.on_device:
            if not self.evict(used):
                return False
        return True

    def evict(self, used: Collection[str]) -> bool:
        oldest = next((name for name in self.device if name not in used), None)
        if oldest is None:
            return False
        self.take_off(oldest)
        return True

    def put(self, name: str, found: Prepared, used: Collection[str]) -> None:
        """Raises ResourceError `memory.adapter` where the memory does not hold it beside those that are used."""
        while True:
            try:
                self.decoder.put(name, found)
            except OutOfMemory:
                if not self.evict(used):
                    raise ResourceError(
                        "the device's memory does not hold this adapter beside those in use",
                        code="memory.adapter",
                        hint="Ask again when fewer adapters are in use, or serve fewer at once.",
                    ) from None
            else:
                self.device[name] = None
                return

    def fetched(self, version: Version) -> Prepared | None:
        """What reading the folder again has given; None while it goes on."""
        if version.fetch is None:
            version.fetch = self.pool.submit(self.again, version.digest, version.folder)
            version.fetch.add_done_callback(lambda _: self.stir())
        if not version.fetch.done():
            return None
        fetch, version.fetch = version.fetch, None
        return fetch.result()

    def again(self, name: str, folder: Path) -> Prepared:
        found, prepared = self.read(folder)
        if found != name:
            raise changed(folder)
        return prepared

    def take_off(self, name: str) -> None:
        del self.device[name]
        self.decoder.drop(name)

    def sweep(self, used: Collection[str]) -> None:
        """Forget the versions that nothing holds."""
        for name in [name for name, version in self.versions.items() if not version.uses and name not in used]:
            del self.versions[name]
            with self.lock:
                self.host.pop(name, None)
            if name in self.device:
                self.take_off(name)

    def close(self) -> None:
        self.pool.shutdown(wait=True, cancel_futures=True)


def changed(folder: Path) -> TrueTuneError:
    return InputError(
        "the adapter's files are no longer those that were loaded",
        code="adapter.changed",
        where=str(folder),
        hint="Load it again; what is written over while it is served cannot be read twice.",
    )
