"""Pulls a model of the hub into the local cache: one commit, only the files that are loaded, each held to its hash.

A file arrives in the cache as `blobs/HASH.incomplete`, ten megabytes at a time, goes on there after a break, and takes
its place only when it is what the hub's listing of the commit announced: sha256 of large files, git's blob id of small
ones. The layout is huggingface_hub's own, so other programs find the model too. What decides how a model reads and
writes comes first and is checked; weights come last, and the name of the revision is written when everything is there.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from truetune.errors import InputError, ResourceError, TrueTuneError
from truetune.models import facts, gate, hub, library, listing, weights
from truetune.models.library import State
from truetune.models.listing import File, Listing
from truetune.models.memory import readable

try:
    import huggingface_hub
    from huggingface_hub.file_download import get_hf_file_metadata, hf_hub_url, http_get
    from huggingface_hub.utils import build_hf_headers, disable_progress_bars, logging  # type: ignore[attr-defined]
except ImportError:  # the extra `hub` is not installed
    huggingface_hub = None  # type: ignore[assignment]

SPARE = 100_000_000
"""Bytes that stay free on the disk."""
BLOCK = 2**20

Progress = Callable[[int, int], None]
"""(bytes that are here, bytes of the whole model)"""
Vet = Callable[[Path], None]
"""Looks at the folder when all but the weights is there; raises what refuses the model."""


def vet(folder: Path) -> None:
    """Raises InputError as `gate.check`."""
    gate.refuse_files(folder)
    gate.check(facts.config(folder), folder)


def download(name: str, revision: str | None = None, token: str | None = None) -> Path:
    """`pull` for who only wants the folder; where the model is being pulled already, it waits for that."""
    return pull(name, revision, token, wait=True)


def pull(
    name: str,
    revision: str | None = None,
    token: str | None = None,
    *,
    progress: Progress | None = None,
    vet: Vet = vet,
    wait: bool = False,
) -> Path:
    """The snapshot of a hub model; `revision` is a branch, tag or commit and is resolved to a commit first.

    Raises InputError: `model.hub_missing`, `model.offline`, `model.missing`, `model.gated`, `model.no_revision`,
    `model.unreachable`, `model.pickle_weights`, `model.gguf`, `model.listing`, `model.too_large`, `model.changed`, what
    `vet` raises; ResourceError `disk.full`, `model.busy` (unless `wait`).
    """
    hub.refuse_offline(name)
    if progress is not None:
        disable_progress_bars()
        logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    storage = library.storage(name)
    with lock(name, wait), library.reported(name, revision) as state:
        try:
            listed = listing.read(name, revision, token)
            listing.trainable(listed)
            refuse_rewritten(listed)
            state.begin(listed.commit)
            return _Pull(listed, storage, token, progress, state).run(vet, revision)
        except hub.NETWORK as error:
            raise hub.explain(error, name, revision) from error


def config(name: str, revision: str | None = None, token: str | None = None) -> Path:
    """The folder of a hub model's config.json, which alone is downloaded. Raises as `pull`, and `model.no_config`."""
    hub.refuse_offline(name)
    try:
        listed = listing.read(name, revision, token)
        found = [file for file in listed.files if file.name == "config.json"]
        if not found:
            hint = "choose a model in transformers' layout: config.json, tokenizer.json and safetensors"
            raise InputError("the model has no config.json", code="model.no_config", where=name, hint=hint)
        one = _Pull(listed, library.storage(name), token, None, None)
        if not (one.snapshot / "config.json").is_file():
            with lock(name, wait=True):
                one.measure(found)
                one.fetch(found)
        return one.snapshot
    except hub.NETWORK as error:
        raise hub.explain(error, name, revision) from error


@contextmanager
def lock(name: str, wait: bool) -> Iterator[None]:
    """One pull of a model at a time, on this machine. Raises ResourceError `model.busy`."""
    place = library.storage(name).parent / ".locks" / library.storage(name).name
    with hub.on_disk(place):
        place.mkdir(parents=True, exist_ok=True)
        handle = os.open(place / "truetune.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise ResourceError(
                "it is being pulled already",
                code="model.busy",
                where=name,
                hint="`ft models list` shows how far it is; it can be used when that has ended",
            ) from None
        yield
    finally:
        os.close(handle)


class _Pull:
    """One pull, under the lock."""

    def __init__(
        self, listed: Listing, storage: Path, token: str | None, progress: Progress | None, state: State | None
    ) -> None:
        self.listed, self.storage, self.token = listed, storage, token
        self.progress, self.state = progress, state
        self.snapshot = storage / "snapshots" / listed.commit
        self.here = self.total = 0

    def run(self, vet: Vet, revision: str | None) -> Path:
        """Everything in order; a folder that is refused is not left behind."""
        small = self.listed.described
        self.measure(small)
        try:
            self.fetch(small)
            vet(self.snapshot)
            large = self.listed.weights(self.snapshot)
            self.measure(small + large)
            self.fetch(large)
            weights.tensors(self.snapshot)
        except TrueTuneError as error:
            if error.code != "disk.full":  # what came so far can be gone on with
                library.discard(self.storage, self.listed.commit)
            raise
        with hub.on_disk(self.storage):
            library.point(self.storage, revision, self.listed.commit)
        library.record(self.listed.name, revision, self.listed.commit, small + large)
        return self.snapshot

    def measure(self, files: list[File]) -> None:
        """How much there is to load, and whether the disk takes it. Raises ResourceError `disk.full`."""
        self.total = sum(file.size for file in files)
        self.here = sum(min(file.size, arrived(self.blob(file))) for file in files)
        with hub.on_disk(self.storage):
            for folder in (self.storage / "blobs", self.snapshot):
                folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.storage).free
        if (lacking := self.total - self.here) > max(0, free - SPARE) and lacking:
            raise ResourceError(
                f"the model needs {readable(lacking)} more, and {readable(max(0, free - SPARE))} can be used",
                code="disk.full",
                where=str(self.storage),
                hint="free some space (`ft models list`, `ft models remove ID`), or point HF_HUB_CACHE at another disk",
            )
        self.tell(0)

    def tell(self, more: int) -> None:
        """So many bytes more (or fewer, where a server begins again) are here."""
        self.here += more
        if self.state:
            self.state.moved(self.here, self.total)
        if self.progress:
            self.progress(self.here, self.total)

    def blob(self, file: File) -> Path:
        return self.storage / "blobs" / file.hash

    def fetch(self, files: list[File]) -> None:
        for file in files:
            blob = self.blob(file)
            if blob.exists() and not matches(blob, file):  # damaged since
                self.here -= arrived(blob)
                blob.unlink()
            if not blob.exists():
                self.load(file, blob)
            library.link(self.snapshot / file.name, blob)

    def load(self, file: File, blob: Path) -> None:
        """Load what is missing of a file, and put it in place if it is the one that was announced."""
        part = blob.with_name(f"{blob.name}.incomplete")
        with hub.on_disk(part), part.open("ab") as stream:
            if stream.tell() > file.size:
                stream.truncate(0)
            self.receive(file, stream)
            stream.flush()
            os.fsync(stream.fileno())
        if not matches(part, file):
            part.unlink()
            raise changed(self.listed.name, f"{file.name} is not the file that the hub announced: its hash differs")
        with hub.on_disk(blob):
            part.rename(blob)

    def receive(self, file: File, stream: IO[bytes]) -> None:
        """The rest of a file from the hub or where it leads; credentials go to the hub alone."""
        address = hf_hub_url(self.listed.name, file.name, revision=self.listed.commit)
        headers = build_hf_headers(token=self.token) | {"Accept-Encoding": "identity"}
        found = get_hf_file_metadata(address, token=self.token)
        asked, led = urlsplit(address), urlsplit(found.location)
        if led.scheme not in ("https", asked.scheme):
            raise changed(self.listed.name, f"the hub leads to an unprotected address for {file.name}")
        if led[:2] != asked[:2]:
            headers.pop("authorization", None)
        begun = stream.tell()
        try:
            http_get(
                found.location,
                Counted(stream, file.size, self.tell),  # type: ignore[arg-type]
                resume_size=begun,
                headers=headers,
                expected_size=file.size,
                displayed_filename=file.name,
            )
        except TooLong:
            stream.truncate(0)
        except OSError as error:
            if type(error) is OSError and error.errno is None:  # its length is not what was announced
                return
            raise


class TooLong(Exception):
    """More comes than was announced, and perhaps never ends."""


class Counted:
    """A stream that tells how many bytes go into it, and takes no more than `most`."""

    def __init__(self, stream: IO[bytes], most: int, tell: Callable[[int], None]) -> None:
        self.stream, self.most, self.count = stream, most, tell

    def write(self, data: bytes) -> int:
        if self.stream.tell() + len(data) > self.most:
            raise TooLong
        written = self.stream.write(data)
        self.count(written)
        return written

    def tell(self) -> int:
        return self.stream.tell()

    def seek(self, place: int) -> int:
        return self.stream.seek(place)

    def truncate(self) -> int:
        """The server begins again from the start."""
        before, place = os.fstat(self.stream.fileno()).st_size, self.stream.tell()
        self.count(place - before)
        return self.stream.truncate(place)


def refuse_rewritten(listed: Listing) -> None:
    """A commit never changes: what it is said to hold now must be what was pulled of it before."""
    known = library.recorded(listed.name, listed.commit).get("files", {})
    for file in listed.files:
        if file.name in known and known[file.name].get("hash") != file.hash:
            what = f"the hub announces another {file.name} for commit {listed.commit[:12]} than the one pulled before"
            raise changed(listed.name, what)


def arrived(blob: Path) -> int:
    """Bytes of a file that are here, whole or in part."""
    for place in (blob, blob.with_name(f"{blob.name}.incomplete")):
        with contextlib.suppress(OSError):
            return place.stat().st_size
    return 0


def matches(path: Path, file: File) -> bool:
    """Whether the content is what was announced: sha256, or git's blob id."""
    if path.stat().st_size != file.size:
        return False
    if len(file.hash) == 64:
        return listing.sha256(path) == file.hash
    digest = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest() == file.hash


def changed(name: str, what: str) -> InputError:
    return InputError(
        what,
        code="model.changed",
        where=name,
        hint="It was not put in place. Try again; if it happens again, the hub, or what stands between, is at fault.",
    )
