"""Models of the Hugging Face hub: what their names are, what of them is in the local cache, and what goes wrong.

With `HF_HUB_OFFLINE=1` nothing opens a socket: `refuse_offline` stands before everything that would. What its library
tells the hub about this machine by itself is turned off.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from truetune import paths
from truetune.errors import InputError, ResourceError, TrueTuneError
from truetune.models import weights

paths.settle("HF_HUB_DISABLE_TELEMETRY", "1")  # read when it is imported
try:
    import huggingface_hub  # its parts load on first use
    from huggingface_hub import constants
    from huggingface_hub import errors as hub_errors
except ImportError:  # the extra `hub` is not installed
    huggingface_hub = None  # type: ignore[assignment]
else:
    # OSError and the error of its HTTP library, which is another one from version to version.
    NETWORK: tuple[type[Exception], ...] = hub_errors.HfHubHTTPError.__bases__

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
COMMIT = re.compile(r"[0-9a-f]{40}")
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
CLOSED = {errno.EACCES, errno.EPERM, errno.EROFS}


def is_name(name: str) -> bool:
    """`owner/name` or `name`."""
    return bool(NAME.fullmatch(name)) and ".." not in name and "--" not in name


def cache() -> Path:
    """The hub's cache on this machine, which other programs share."""
    return Path(constants.HF_HUB_CACHE) if huggingface_hub else paths.cache() / "hub"


def cached(name: str, revision: str | None = None) -> Path | None:
    """The snapshot in the local cache, without the network; None where there is none, or only part of one."""
    if huggingface_hub is None or not is_name(name) or ".." in (revision or ""):
        return None
    place = cache() / f"models--{name.replace('/', '--')}"
    try:
        commit = revision if revision and COMMIT.fullmatch(revision) else _commit(place / "refs" / (revision or "main"))
        folder = place / "snapshots" / commit
        weights.shards(folder)
    except (OSError, ValueError, InputError):  # ValueError: a name that no file can have
        return None
    return folder if commit and (folder / "config.json").is_file() else None


def _commit(ref: Path) -> str:
    """What a branch or tag means here; empty where it is damaged. Raises OSError."""
    text = ref.read_text("utf-8").strip()
    return text if COMMIT.fullmatch(text) else ""


def known() -> list[str]:
    """Names of the models in the local cache."""
    if huggingface_hub is None:
        return []
    root = cache()
    return sorted(entry.name.removeprefix("models--").replace("--", "/") for entry in root.glob("models--*"))


def refuse_offline(name: str) -> None:
    """Raises InputError: `model.hub_missing`, `model.offline`."""
    if huggingface_hub is None:
        raise InputError(
            "models of the hub need the package huggingface_hub, which is not installed",
            code="model.hub_missing",
            where=name,
            hint='install it with pip install "truetune[hub]", or name a folder',
        )
    if paths.offline():
        raise InputError(
            f"`{name}` is not in the local cache, and HF_HUB_OFFLINE forbids the network",
            code="model.offline",
            where=name,
            hint="download it once with the network on, name a folder, or use `starter`",
        )


def explain(error: Exception, name: str, revision: str | None) -> TrueTuneError:
    """What the hub, the network or the disk said, in our words."""
    if isinstance(error, hub_errors.GatedRepoError):
        hint = "accept the model's terms on its page and set `huggingface.token` in passwords.yml, or HF_TOKEN"
        return InputError("the model is gated", code="model.gated", where=name, hint=hint)
    if isinstance(error, hub_errors.RevisionNotFoundError):
        return no_revision(name, revision)
    if isinstance(error, hub_errors.RepositoryNotFoundError):
        return missing(name)
    if isinstance(error, OSError) and error.errno in FULL:
        return _full(cache())
    return InputError(
        f"the hub could not be reached or the download broke off ({type(error).__name__})",
        code="model.unreachable",
        where=name,
        hint="check the connection and try again: what was loaded stays; or name a folder",
    )


def no_revision(name: str, revision: str | None) -> InputError:
    hint = "name a branch, a tag or a commit of it, or none: the newest"
    return InputError(f"the model has no revision {revision!r}", code="model.no_revision", where=name, hint=hint)


def _full(place: Path) -> ResourceError:
    hint = f"free some space in {cache()} and run again: what was loaded stays"
    return ResourceError("the disk is full", code="disk.full", where=str(place), hint=hint)


@contextmanager
def on_disk(place: Path) -> Iterator[None]:
    """What the disk says while the cache is written, in our words; all else passes. Raises ResourceError `disk.full`,
    `model.cache`."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise _full(place) from error
        if error.errno in CLOSED:
            hint = "HF_HUB_CACHE can point to another folder"
            message = f"the cache of the hub cannot be written: {(error.strerror or '').lower()}"
            raise ResourceError(message, code="model.cache", where=str(place), hint=hint) from error
        raise


def missing(name: str, near: str = "") -> InputError:
    """No such folder and no such hub model; `near` lists names that look alike."""
    hint = f"did you mean {near}? " if near else ""
    return InputError(
        f"there is no model `{name}`: no folder of this name and no model on the hub",
        code="model.missing",
        where=name,
        hint=hint + "a model is `starter`, a folder (./my-model) or a hub id (owner/name); private ones need a token",
    )
