"""Models of the Hugging Face hub: the local cache first, then a download pinned to one commit.

With `HF_HUB_OFFLINE=1` it opens no socket. Only this module and `data.hub`, `data.remote` ever do.
"""

from __future__ import annotations

import errno
import re
from pathlib import Path

from truetune import paths
from truetune.errors import InputError, ResourceError, TrueTuneError
from truetune.models import weights

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
WANTED = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt", "README.md"]
"""README.md is the model's card: its licence goes into the card of what is trained on it."""
UNWANTED = ["*/*", "consolidated*"]
"""Sub-folders hold exports for other runtimes; `consolidated` is Mistral's second copy of the weights."""


def is_name(name: str) -> bool:
    """`owner/name` or `name`."""
    return bool(NAME.fullmatch(name)) and ".." not in name and "--" not in name


def cached(name: str, revision: str | None = None) -> Path | None:
    """The snapshot in the local cache, without the network; None where there is none, or only part of one."""
    if huggingface_hub is None or not is_name(name):
        return None
    try:
        folder = Path(_snapshot(name, revision, local=True))
        weights.shards(folder)
    except (hub_errors.LocalEntryNotFoundError, hub_errors.HFValidationError, InputError):
        return None
    return folder if (folder / "config.json").is_file() else None


def _snapshot(name: str, revision: str | None, token: str | None = None, *, local: bool = False) -> str:
    return huggingface_hub.snapshot_download(
        name, revision=revision, token=token, local_files_only=local, allow_patterns=WANTED, ignore_patterns=UNWANTED
    )


def known() -> list[str]:
    """Names of the models in the local cache."""
    if huggingface_hub is None:
        return []
    root = Path(constants.HF_HUB_CACHE)
    return sorted(entry.name.removeprefix("models--").replace("--", "/") for entry in root.glob("models--*"))


def download(name: str, revision: str | None = None, token: str | None = None) -> Path:
    """The snapshot of a hub model; `revision` is a branch, tag or commit and is resolved to a commit first.

    Raises InputError: `model.hub_missing`, `model.offline`, `model.missing`, `model.gated`, `model.no_revision`,
    `model.unreachable`, `model.pickle_weights`, `model.gguf`; ResourceError `disk.full`.
    """
    refuse_offline(name)
    try:
        info = huggingface_hub.HfApi().model_info(name, revision=revision, token=token)
        _trainable(name, [entry.rfilename for entry in info.siblings or []])
        return Path(_snapshot(name, revision, token))
    except NETWORK as error:
        raise _explain(error, name, revision) from error


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


def config(name: str, revision: str | None = None, token: str | None = None) -> Path:
    """The folder of a hub model's config.json, which alone is downloaded. Raises as `download`."""
    refuse_offline(name)
    try:
        return Path(huggingface_hub.hf_hub_download(name, "config.json", revision=revision, token=token)).parent
    except hub_errors.RemoteEntryNotFoundError as error:
        hint = "choose a model in transformers' layout: config.json, tokenizer.json and safetensors"
        raise InputError("the model has no config.json", code="model.no_config", where=name, hint=hint) from error
    except NETWORK as error:
        raise _explain(error, name, revision) from error


def _explain(error: Exception, name: str, revision: str | None) -> TrueTuneError:
    """What the hub, the network or the disk said, in our words."""
    if isinstance(error, hub_errors.GatedRepoError):
        hint = "accept the model's terms on its page and set `huggingface.token` in passwords.yml, or HF_TOKEN"
        return InputError("the model is gated", code="model.gated", where=name, hint=hint)
    if isinstance(error, hub_errors.RevisionNotFoundError):
        message = f"the model has no revision `{revision}`"
        return InputError(message, code="model.no_revision", where=name, hint="check model.revision")
    if isinstance(error, hub_errors.RepositoryNotFoundError):
        return missing(name)
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        hint = f"free some space in {constants.HF_HUB_CACHE} and run again: what was loaded stays"
        return ResourceError("the disk is full", code="disk.full", where=constants.HF_HUB_CACHE, hint=hint)
    return InputError(
        f"the hub could not be reached or the download broke off ({type(error).__name__})",
        code="model.unreachable",
        where=name,
        hint="check the connection and try again: what was loaded stays; or name a folder",
    )


def missing(name: str, near: str = "") -> InputError:
    """No such folder and no such hub model; `near` lists names that look alike."""
    hint = f"did you mean {near}? " if near else ""
    return InputError(
        f"there is no model `{name}`: no folder of this name and no model on the hub",
        code="model.missing",
        where=name,
        hint=hint + "a model is `starter`, a folder (./my-model) or a hub id (owner/name); private ones need a token",
    )


def _trainable(name: str, files: list[str]) -> None:
    """Refuse before the download what could not be used after it."""
    roots = [file for file in files if "/" not in file]
    if any(file.endswith(".safetensors") for file in roots):
        return
    if pickles := [file for file in roots if file.endswith(weights.PICKLES) and file not in weights.OTHER]:
        raise weights.pickled(name, pickles[0])
    if gguf := [file for file in roots if file.endswith(".gguf")]:
        raise weights.unsupported(f"{name}/{gguf[0]}")
