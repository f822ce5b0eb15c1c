"""What a model is called between machines: the address of exactly these files, with their digest.

`support` may be another version tomorrow, when a replica starts again. So the door settles once what a name means, and
every replica opens that and nothing else.
"""

from __future__ import annotations

from truetune.engines import adapter
from truetune.errors import InputError
from truetune.evaluate.subject import Subject, find_subject
from truetune.serve.adapters import digest

PATHS = (".", "/", "~")


def pinned(subject: Subject) -> str:
    """`DIGEST ADDRESS`; without a digest (a base, a whole model) it begins with the space."""
    found = digest(subject.adapter) if subject.adapter else ""
    return f"{found} {address(subject)}"


def address(subject: Subject) -> str:
    """Where it is found from any working folder: a run with its checkpoint, an adapter's folder, a model."""
    if subject.run:
        return f"{subject.run.folder.resolve()}{subject.name.removeprefix(subject.run.id)}"
    if subject.adapter:
        return str(subject.adapter.resolve())
    name = subject.base.name
    return str(subject.base.folder.resolve()) if name.startswith(PATHS) else name


def unpinned(pin: str) -> Subject:
    """The subject of a pin. Raises what `find_subject` raises, and InputError `serve.replica_files`."""
    wanted, _, place = pin.partition(" ")
    subject = find_subject(place)
    if wanted and (subject.adapter is None or digest(subject.adapter) != wanted):
        raise InputError(
            f"the adapter's {adapter.CONFIG} or {adapter.WEIGHTS} is not the one that was asked for",
            code="serve.replica_files",
            where=place,
            hint="Every replica must see the same files; load it again after they changed.",
        )
    return subject
