"""Taking a run away: only where no process works on it and no other run still needs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from truetune.errors import InputError, UsageError
from truetune.runs import durable, find
from truetune.runs.run import Run
from truetune.runs.status import Status


@contextmanager
def held(run: Run) -> Iterator[None]:
    """The run, held so that no process begins to work on it. Raises UsageError `run.in_use`, `run.needed`."""
    if Status.read(run).state == "running":
        raise UsageError(
            "the run is running",
            code="run.in_use",
            where=run.id,
            hint=f"Stop it first: ft runs stop {run.id}.",
        )
    with run.lock():
        refuse_needed(run)
        yield


def refuse_needed(run: Run) -> None:
    """A run that is not finished opens the adapter that it went on from when it is resumed."""
    for child, status in find.known():
        if status.state != "finished" and child.folder != run.folder and rests_on(child, run.folder):
            raise UsageError(
                f"{child.id} went on from it and is not finished",
                code="run.needed",
                where=run.id,
                hint=f"Finish that one first (ft train --from {child.id}), or remove it.",
            )


def rests_on(child: Run, folder: Path) -> bool:
    """Whether `model.adapter` of a run is in this folder."""
    try:
        wanted = child.resolved.get("config", {}).get("model", {}).get("adapter")
        roots = [child.resolved.get("folder"), child.env.get("here")]
    except InputError:  # a damaged run can't be resumed
        return False
    places = [Path(str(root)) / Path(wanted).expanduser() for root in roots if root] if wanted else []
    return any(place.resolve().is_relative_to(folder.resolve()) for place in places)


def remove(run: Run) -> None:
    """Its folder, moved aside as a whole and then deleted. Raises ResourceError."""
    durable.remove(run.folder)


def size(run: Run) -> int:
    """Bytes of its files; links are not followed, and a file that several checkpoints share counts once."""
    found = {}
    for path in run.folder.rglob("*"):
        if not path.is_symlink() and path.is_file():
            seen = path.stat()
            found[seen.st_dev, seen.st_ino] = seen.st_size
    return sum(found.values())
