"""What the hub says is in a model: a commit and its files with their sizes and hashes, checked before anything of it
is loaded. Names are names of files, hashes are hexadecimal digits: both become paths in the cache."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from truetune.errors import InputError
from truetune.models import gate, hub, weights

try:
    import huggingface_hub
    from huggingface_hub import constants
except ImportError:  # the extra `hub` is not installed
    huggingface_hub = None  # type: ignore[assignment]

POOLING = re.compile(r"[0-9]{1,2}_Pooling/config\.json")
WANTED = ("*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt", "README.md")
"""Beside the weights. README.md is the model's card: its licence goes into the card of what is trained on it."""
COMMIT = re.compile(r"[0-9a-f]{40}")
HASH = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@=-]{0,200}")
MOST = 20_000
"""Files of a repository."""


@dataclass(frozen=True)
class File:
    """`hash` is the sha256 of the content where the hub keeps that, else git's blob id; `size` is in bytes."""

    name: str
    size: int
    hash: str


@dataclass(frozen=True)
class Listing:
    """The files of a commit that may be loaded."""

    name: str
    commit: str
    files: tuple[File, ...]
    names: tuple[str, ...]
    """Of all files of the commit."""

    @property
    def described(self) -> list[File]:
        """All but the weights."""
        return [file for file in self.files if not file.name.endswith(weights.ENDING)]

    def weights(self, folder: Path) -> list[File]:
        """The weights: one file, else those that the index in `folder` names."""
        found = {file.name: file for file in self.files}
        if weights.SINGLE in found:
            return [found[weights.SINGLE]]
        return [found[name] for name in indexed(folder / weights.INDEX) if name in found]


def read(name: str, revision: str | None, token: str | None) -> Listing:
    """Ask the hub. Raises InputError `model.listing`, `model.too_large`, `model.no_revision`, and what the network
    says."""
    if revision is not None and not usable(revision):
        raise hub.no_revision(name, revision)
    try:
        info = huggingface_hub.HfApi().model_info(name, revision=revision, token=token, files_metadata=True)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise refused(name, "it cannot be read") from error
    commit, entries = info.sha, info.siblings or []
    if not isinstance(commit, str) or not COMMIT.fullmatch(commit) or len(entries) > MOST:
        raise refused(name, "it names no commit, or too many files")
    names = [entry.rfilename for entry in entries]
    if odd := [each for each in names if not inside(each)]:
        raise refused(name, f"it names a file outside of the model, {str(odd[0])[:80]!r}")
    files = tuple(file(name, entry) for entry in entries if wanted(entry.rfilename))
    return Listing(name, commit, files, tuple(names))


def usable(revision: str) -> bool:
    """Whether it is a branch, a tag or a commit, and no path."""
    return bool(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}", revision)) and ".." not in revision


def inside(name: Any) -> bool:
    """Whether a name stays in its folder, wherever it is read."""
    plain = isinstance(name, str) and name.isprintable() and "\\" not in name and 0 < len(name) < 1000
    return plain and not any(part in ("", ".", "..") for part in name.split("/"))


def wanted(name: str) -> bool:
    """Sub-folders hold exports for other runtimes, but for how embeddings are made; `consolidated` is Mistral's second
    copy of the weights."""
    if POOLING.fullmatch(name):
        return True
    if not NAME.fullmatch(name) or name.startswith("consolidated"):
        return False
    return name.endswith(weights.ENDING) or any(fnmatch(name, pattern) for pattern in WANTED)


def file(name: str, entry: Any) -> File:
    """A file as it is announced. Raises InputError `model.listing`, `model.too_large`."""
    lfs = entry.lfs
    digest, size = (lfs.sha256, lfs.size) if lfs else (entry.blob_id, entry.size)
    if not isinstance(digest, str) or not HASH.fullmatch(digest) or type(size) is not int or size < 0:
        raise refused(name, f"it does not say how large {entry.rfilename} is, or what its hash is")
    text = not entry.rfilename.endswith(weights.ENDING)
    most = gate.SIZES.get(entry.rfilename, gate.SIZE) if text else constants.MAX_HTTP_DOWNLOAD_SIZE
    if size > most:
        raise InputError(
            f"{entry.rfilename} is far too large",
            code="model.too_large",
            where=name,
            hint="choose another model, or download this one by other means and name its folder",
        )
    return File(entry.rfilename, size, digest)


def trainable(listed: Listing) -> None:
    """Refuse before the download what could not be used after it. Raises InputError `model.pickle_weights`,
    `model.gguf`."""
    name, roots = listed.name, [file for file in listed.names if "/" not in file]
    if any(file.endswith(weights.ENDING) for file in roots):
        return
    if pickles := [file for file in roots if file.endswith(weights.PICKLES) and file not in weights.OTHER]:
        raise weights.pickled(name, pickles[0])
    if gguf := [file for file in roots if file.endswith(".gguf")]:
        raise weights.unsupported(f"{name}/{gguf[0]}")


def indexed(index: Path) -> list[str]:
    """Names of the weight files, as far as an index names any: `weights.shards` judges it."""
    try:
        places = gate.parse(index)["weight_map"].values()
        return sorted({place for place in places if isinstance(place, str)})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def sha256(path: Path) -> str:
    """Of a file, read in pieces, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def refused(name: str, reason: str) -> InputError:
    return InputError(
        f"the hub's list of the model's files is refused: {reason}",
        code="model.listing",
        where=name,
        hint="choose another model; if HF_ENDPOINT is set, check what it points to",
    )
