"""The verb `shell`, for programs: a base that stays in memory, and its adapters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from truetune.api import wanted

if TYPE_CHECKING:
    from truetune.evaluate.session import Session


def open_session(device: str = "auto") -> Session:
    """An empty session: `load_into` brings models and adapters into it, `session.ask` asks. Close it at the end."""
    from truetune.evaluate.session import Session

    wanted.device(device)
    return Session(device)


def load_into(session: Session, address: Any) -> dict[str, Any]:
    """Bring a run, an adapter by name, a folder or a model into memory, and switch to it: {name, opened: whether a base
    was read for it, and `session.describe()`}.

    Raises what `find_subject` and `Session.load` raise.
    """
    from pathlib import Path

    from truetune.evaluate.subject import find_subject

    subject = find_subject(wanted.address(address))
    typed = isinstance(address, str) and address != "last" and "/" not in address
    name = address if typed else Path(subject.name).name
    return {"name": name, "opened": session.load(name, subject), **session.describe()}
