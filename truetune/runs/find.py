"""From what a person types to a run: `last`, an id, a unique prefix, or a path.

Order of resolution: `last`; a path (starts with `.`, `/` or `~`); an id; a folder that holds a run (`runs/xyz`);
a unique prefix. Known runs are those in `./runs` and those that were started from the current working folder with an
`output.dir` of their own; `last` is the newest of both. Any other run is reached by its path.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from truetune import paths
from truetune.errors import InputError, UsageError
from truetune.runs import checkpoints, index
from truetune.runs.checkpoints import Checkpoint, Checkpoints
from truetune.runs.run import Run, is_run
from truetune.runs.status import Status


def known(root: Path | None = None) -> list[tuple[Run, Status]]:
    """Every known run with its status, newest first; reads one small file per run."""
    root = root or paths.runs()
    folders = [*(root.iterdir() if root.is_dir() else ()), *index.made_here()]
    unique = dict.fromkeys(folder.resolve() for folder in folders if not folder.name.startswith("."))
    runs = [Run(folder) for folder in unique if is_run(folder)]
    return sorted(((run, Status.read(run)) for run in runs), key=newest)


def newest(pair: tuple[Run, Status]) -> tuple[int, float, str]:
    """Sorts the newest first: by the order in which runs were made, where it is known, not by what a clock said."""
    run, status = pair
    return -status.order, -status.created, run.id


def listing(root: Path | None = None) -> list[dict[str, Any]]:
    """A summary of each known run, newest first: id, folder, and its status."""
    return [{"id": run.id, "folder": str(run.folder)} | status.to_json() for run, status in known(root)]


def find(address: str = "last", root: Path | None = None) -> Run:
    """The run at an address. Raises InputError where there is none, UsageError where it fits several."""
    if address.startswith((".", "/", "~")):
        return Run.open(Path(address).expanduser())
    runs = [run for run, _ in known(root)]
    if address == "last" and runs:
        return runs[0]
    same = [run for run in runs if run.id == address]
    if not same and is_run(Path(address)):
        return Run(Path(address))
    fits = same or [run for run in runs if run.id.startswith(address)]
    if not fits or not address:
        raise _missing(address, runs)
    if len(fits) > 1:
        raise _ambiguous(address, fits)
    return fits[0]


def parse(address: str, root: Path | None = None) -> tuple[Run, Checkpoint | None]:
    """`RUN`, `RUN:best`, `RUN:last` or `RUN:step-200`; `:best` alone is of the last run."""
    name, colon, wanted = address.rpartition(":")
    if not colon or (not checkpoints.NAME.fullmatch(wanted) and is_run(Path(address))):
        return find(address, root), None
    run = find(name or "last", root)
    if not wanted:
        raise UsageError(
            f"`{address}` names no checkpoint behind the colon",
            code="checkpoint.name",
            hint="Write best, last or step-N there, or leave out the colon.",
        )
    return run, Checkpoints(run).find(wanted)


def newest_resumable(train_yml: Path, root: Path | None = None) -> Run | None:
    """The newest run that came from this train.yml and can go on: of this path, else of this content.

    Raises InputError where the file cannot be read.
    """
    path, content = str(train_yml.resolve()), _sha256(train_yml)
    sources = [(run, _source(run)) for run, status in known(root) if status.resumable]
    by_path = (run for run, source in sources if source.get("path") == path)
    by_content = (run for run, source in sources if source.get("sha256") == content)
    return next(by_path, None) or next(by_content, None)


def _source(run: Run) -> dict[str, Any]:
    """What the run says it came from; nothing where its env.json is damaged."""
    try:
        return run.env.get("source") or {}
    except InputError:
        return {}


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(
            f"the file cannot be read: {error.strerror}",
            code="config.no_file",
            where=str(path),
            hint="give the train.yml of the run to go on with, or use --from RUN",
        ) from error


def _missing(address: str, runs: Iterable[Run]) -> InputError:
    names = [run.id for run in runs]
    near = difflib.get_close_matches(address, names, n=1, cutoff=0.4)
    if names and difflib.get_close_matches(address, ["last"], cutoff=0.7) and address != "last":
        hint = "did you mean last, the newest run? `ft runs list` shows all"
    elif near:
        hint = f"did you mean {near[0]}? `ft runs list` shows all"
    elif names:
        hint = "`ft runs list` shows the runs there are; a run elsewhere is given by its path"
    else:
        hint = "no run was made from this folder yet: start one with `ft train`, or give a path"
    sentence = "there is no run yet" if address == "last" else f"there is no run `{address}`"
    return InputError(sentence, code="run.missing", where="", hint=hint)


def _ambiguous(address: str, fits: list[Run]) -> UsageError:
    names = ", ".join(run.id for run in fits[:8])
    return UsageError(
        f"`{address}` fits {len(fits)} runs",
        code="run.ambiguous",
        hint=f"write more of the id, or a path: {names}",
    )
