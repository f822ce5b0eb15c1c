"""Secrets: from the environment, else from `passwords.yml` beside train.yml, else from the one in TrueTune's home.

    huggingface: {token: hf_…}
    server: {api_key: …}

Only its owner may read that file (mode 0600). A secret never shows in a log, an error or a repr.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NoReturn

from truetune import paths
from truetune.config import document
from truetune.errors import UsageError

FILE = "passwords.yml"
VARIABLES = {"huggingface.token": "HF_TOKEN", "server.api_key": "TRUETUNE_API_KEY"}
"""Name of a secret -> the environment variable that goes before the files."""


class Secret:
    """A text that is told only when asked for by `reveal()`."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not written anywhere")


def secret(name: str, folder: Path) -> Secret | None:
    """The secret `huggingface.token` or the like; `folder` is where train.yml is.

    Raises UsageError where others may read the file, or where it is not usable.
    """
    if (variable := VARIABLES.get(name)) and (text := paths.variable(variable)):
        return Secret(text)
    for path in (folder / FILE, paths.home() / FILE):
        if text := find(path, name):
            return Secret(text)
    return None


def find(path: Path, name: str) -> str | None:
    """The text under a dotted name, None without such a file or name."""
    try:
        with path.open("rb") as file:
            private(path, os.fstat(file.fileno()))
            data = file.read(document.LARGEST + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        reason = (error.strerror or "unreadable").lower()
        hint = "check that it is a file of yours"
        raise UsageError(f"cannot be read: {reason}", code="secrets.unreadable", where=str(path), hint=hint) from None
    spot = values(data, path)
    for key in name.split("."):
        spot = spot.get(key) if isinstance(spot, dict) else None
    if spot is not None and not isinstance(spot, str):
        message = f"{name} must be text"
        raise UsageError(message, code="secrets.type", where=str(path), hint="put quotes around it")
    return spot


def private(path: Path, status: os.stat_result) -> None:
    """Refuse a file that others may read."""
    if stat.S_IMODE(status.st_mode) & 0o077:
        message = "other users of this machine may read your secrets"
        raise UsageError(message, code="secrets.mode", where=str(path), hint=f"run `chmod 600 {path}`")


def values(data: bytes, path: Path) -> object:
    """The file's values; its findings name the line and nothing of what stands there."""
    parsed = document.read(data, str(path))
    if parsed.findings:
        where = parsed.findings[0].where
        hint = "each secret on its line, as `huggingface: {token: …}`"
        raise UsageError("not a readable list of secrets", code="secrets.syntax", where=where, hint=hint)
    return parsed.value
