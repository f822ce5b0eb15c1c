"""Where runs were made, for those outside `./runs`: an append-only `runs.jsonl` in home.

It only saves typing (`last`, prefixes): the run folder is the truth, and a lost line loses nothing else.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from truetune import paths
from truetune.errors import ResourceError
from truetune.runs import durable, jsonfile


def remember(folder: Path) -> None:
    """Note a run that was made outside `./runs`; a home that cannot be written is no reason to stop a run."""
    folder = folder.resolve()
    if folder.parent == paths.runs().resolve():
        return
    entry = {"id": folder.name, "folder": str(folder), "cwd": str(Path.cwd())}
    with suppress(OSError, ResourceError):
        paths.home().mkdir(parents=True, exist_ok=True)
        durable.append(paths.home() / "runs.jsonl", jsonfile.line(entry))


def made_here() -> list[Path]:
    """Folders of the runs that were started from the current working folder, oldest first, each once."""
    try:
        lines = (paths.home() / "runs.jsonl").read_bytes().splitlines()
    except OSError:
        return []
    entries = [entry for entry in map(jsonfile.parse, lines) if entry and entry.get("cwd") == str(Path.cwd())]
    return list(dict.fromkeys(Path(str(entry.get("folder"))) for entry in entries))
