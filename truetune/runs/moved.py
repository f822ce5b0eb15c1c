"""Where something is that a run names by its full path, once the run was moved together with what stood around it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def places(path: str, before: str | None, now: Path) -> Iterator[str]:
    """The path itself; and, of a run that was made in the folder `before` and is in `now`, the same in the new place of
    each folder that both are in.

    >>> [*places("/old/project/rows.jsonl", "/old/project/runs/one", Path("/new/project/runs/one"))][-1]
    '/new/project/rows.jsonl'
    """
    yield path
    if not before or not Path(path).is_absolute():
        return
    old, new = Path(before), now
    while old.name == new.name and old.name:
        old, new = old.parent, new.parent
        if Path(path).is_relative_to(old):
            yield str(new / Path(path).relative_to(old))
