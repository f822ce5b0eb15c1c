"""Where things live. The only module that touches environment variables."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

SECRETS = ("HF_TOKEN", "TRUETUNE_API_KEY")


def home() -> Path:
    """`$TRUETUNE_HOME`, else the platform's data folder: registry, secrets."""
    if value := os.environ.get("TRUETUNE_HOME"):
        return Path(value).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "truetune"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "truetune"


def cache() -> Path:
    """Tokenised data and downloaded models; everything in it can be made again."""
    return home() / "cache"


def runs() -> Path:
    """Where runs are created unless `output.dir` says otherwise, and where `last` is looked for."""
    return Path("runs")


def offline() -> bool:
    """True where the environment forbids the network (`HF_HUB_OFFLINE=1`)."""
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}


def settle(name: str, value: str) -> None:
    """Give an environment variable a value for the libraries that are loaded later, unless the user gave it one."""
    os.environ.setdefault(name, value)


def variable(name: str) -> str | None:
    """An environment variable for secrets (`HF_TOKEN`, `TRUETUNE_API_KEY`) and editors; empty counts as unset."""
    return os.environ.get(name) or None


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """The environment for a program of another make: ours without our secrets, and what it is told besides."""
    kept = {name: value for name, value in os.environ.items() if name not in SECRETS}
    return kept | dict(more)
