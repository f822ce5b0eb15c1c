"""`ft doctor`: what this machine has, what is missing, and what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from truetune import __version__, paths
from truetune.errors import TrueTuneError

LIBRARIES = {
    "torch": 'pip install "truetune[torch]"',
    "transformers": 'pip install "truetune[torch]"',
    "huggingface_hub": 'pip install "truetune[hub]"',
    "mlx-lm": 'pip install "truetune[mlx]"',
    "peft": "",
}
"""Distribution -> how to get it; empty where nothing in TrueTune needs it."""
NEEDED = {"torch", "transformers"}
LITTLE_DISK, LITTLE_MEMORY = 1_000_000_000, 1_000_000_000
"""Bytes below which a first run is likely to fail."""


@dataclass(frozen=True)
class Check:
    """`state`: ok; absent = not there and not needed; bad = needed and missing."""

    name: str
    state: Literal["ok", "absent", "bad"]
    value: str
    hint: str = ""


def doctor() -> dict[str, Any]:
    """`{"ok": bool, "checks": [{"name", "state", "value", "hint"}]}`; ok is false where something needed is missing."""
    checks = [*_system(), *_libraries(), *_device(), *_places(), _starter()]
    return {"ok": all(check.state != "bad" for check in checks), "checks": [asdict(check) for check in checks]}


def _system() -> Iterator[Check]:
    from truetune.models import memory

    yield Check("truetune", "ok", __version__)
    yield Check("python", "ok", f"{platform.python_version()} ({sys.executable})")
    yield Check("platform", "ok", f"{platform.system()} {platform.release()} {platform.machine()}")
    yield Check("cores", "ok", str(cores()))
    free = memory.available()
    hint = "" if free > LITTLE_MEMORY else "close other programs: torch alone wants about a gigabyte"
    yield Check("memory", "bad" if hint else "ok", f"{memory.readable(free)} available", hint)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _libraries() -> Iterator[Check]:
    for name, hint in LIBRARIES.items():
        try:
            yield Check(name, "ok", metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Check(name, "bad" if name in NEEDED else "absent", "not installed", hint)


def _device() -> Iterator[Check]:
    """The engine's choice; a library that is installed but does not import is found here."""
    from truetune import engines
    from truetune.models import memory

    try:
        engine = engines.module("torch")
        choice = engine.choose("auto")
        free = engine.free(choice.device)
    except TrueTuneError as error:
        yield Check("engine", "bad", error.finding.message, error.finding.hint)
    except Exception as error:  # a broken installation fails in many ways
        hint = 'install the engine again: pip install --force-reinstall "truetune[torch]"'
        yield Check("engine", "bad", f"torch cannot be used ({type(error).__name__}: {error})", hint)
    else:
        room = f", {memory.readable(free)} free" if free is not None else ""
        yield Check("device", "ok", f"{choice.device} ({choice.reason}{room})")
        yield Check("dtype", "ok", f"{choice.dtype} ({choice.dtype_reason})")


def _places() -> Iterator[Check]:
    from truetune.models import memory

    for name, folder in {"runs": paths.runs(), "home": paths.home(), "cache": paths.cache()}.items():
        place = existing(folder)
        free = shutil.disk_usage(place).free
        value = f"{folder.absolute()}: {memory.readable(_size(folder))} used, {memory.readable(free)} free"
        if not os.access(place, os.W_OK):
            yield Check(name, "bad", value, f"{place} is not writable")
        elif free < LITTLE_DISK:
            yield Check(name, "bad", value, "free some disk space")
        else:
            yield Check(name, "ok", value)
    yield Check("network", "ok", "off (HF_HUB_OFFLINE)" if paths.offline() else "used for hub models only")


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.exists())


def _size(folder: Path) -> int:
    """Bytes of the files below `folder`; what vanishes meanwhile does not count."""
    total = 0
    for base, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(base, name)).st_size
            except OSError:
                continue
    return total


def _starter() -> Check:
    from truetune.models import facts, source

    try:
        source.check(source.STARTER)
        count = facts.read(source.STARTER).parameters
    except TrueTuneError as error:
        return Check("starter", "bad", error.finding.message, "install TrueTune again")
    return Check("starter", "ok", f"{count:,} parameters")
