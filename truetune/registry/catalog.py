"""Adapters by name and version: registered, found, promoted, renamed, removed.

    support              the newest version        support@3   that one
    support@production   the one in this stage     support@staging

Numbers are never given twice, not even after a removal, so `support@3` means one adapter for ever.
"""

from __future__ import annotations

import difflib
import re
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from truetune.errors import InputError, UsageError
from truetune.registry import entry
from truetune.registry.index import COLUMNS, Index, row
from truetune.registry.journal import Event, Journal
from truetune.runs.run import NAME, Run, is_run

STAGES = ("staging", "production")
ADDRESS = re.compile(r"(?P<name>[a-z0-9][a-z0-9._-]{0,63})(@(?P<which>[1-9][0-9]{0,8}|staging|production))?")

Key = tuple[str, int]
"""Name and version."""
Adapter = dict[str, Any]
"""What `index.row` gives: name, version, address, stage, note, time, and what `entry.describe` says."""


class Catalog:
    """The registry of this home. Every method that changes it holds the journal's lock and leaves one line there."""

    def __init__(self, journal: Journal | None = None) -> None:
        self.journal = journal or Journal()
        self.index = Index(self.journal)

    @property
    def empty(self) -> bool:
        """Whether nothing was ever registered; costs one look at the disk."""
        return not self.journal.size()

    def register(self, run: Run, name: str | None = None) -> Adapter:
        """The next version of a name; a run that is registered stays the version it is, at the place it has now.

        Raises InputError `run.unfinished`, UsageError `adapter.name`.
        """
        body, named = entry.describe(run), checked(name or entry.name_of(run))

        def decide(connection: sqlite3.Connection) -> tuple[Key, Event | None]:
            known = _select(connection, "WHERE run = ? AND content = ?", (run.id, body["content"]))
            old = next((each for each in known if name in (None, each["name"])), None)
            if old and (old["folder"] == body["folder"] or is_run(Path(old["folder"]))):
                return _key(old), None
            key = _key(old) if old else (named, _last(connection, named) + 1)
            return key, {"event": "register", **body}

        return self._one(self._change(decide))

    def all(self, name: str | None = None, limit: int | None = None) -> list[Adapter]:
        """All adapters, or all versions of a name: newest first, with `limit` no more than so many."""
        where, values = ("WHERE name = ?", (name,)) if name else ("", ())
        most = -1 if limit is None else limit
        with self.index.open() as connection:
            return _select(connection, f"{where} ORDER BY time DESC, name, version DESC LIMIT ?", (*values, most))

    def count(self, name: str | None = None) -> int:
        """How many adapters there are, or versions of a name."""
        where, values = ("WHERE name = ?", (name,)) if name else ("", ())
        with self.index.open() as connection:
            return int(connection.execute(f"SELECT count(*) FROM adapters {where}", values).fetchone()[0])

    def find(self, address: str) -> Adapter:
        """The adapter of an address. Raises InputError `adapter.missing`."""
        with self.index.open() as connection:
            return _find(connection, address)

    def look(self, address: str) -> Adapter | None:
        """As `find`; None for what is no adapter's address, or names none."""
        if not ADDRESS.fullmatch(address) or self.empty:
            return None
        with self.index.open() as connection:
            return _look(connection, address)

    def of_run(self, run: str, folder: Path) -> Adapter | None:
        """What a run in this folder is registered as."""
        if self.empty:
            return None
        with self.index.open() as connection:
            found = _select(connection, "WHERE run = ? ORDER BY time DESC", (run,))
        return next((each for each in found if each["folder"] == str(folder)), None)

    def promote(self, address: str, stage: str | None, note: str | None = None) -> Adapter:
        """Give a version a stage, which the one that had it loses; None takes it away."""
        return self._one(_key(self._about(address, {"event": "promote", "stage": stage, "note": note})))

    def rename(self, old: str, new: str) -> list[Adapter]:
        """All versions of a name get another, which was never used. Raises InputError, UsageError
        `adapter.name_taken`."""
        checked(new)

        def decide(connection: sqlite3.Connection) -> tuple[Key, Event]:
            found = next(iter(_select(connection, "WHERE name = ? ORDER BY version DESC LIMIT 1", (old,))), None)
            if found is None:
                raise _missing(connection, old)
            if _last(connection, new):
                raise UsageError(
                    f"there is an adapter `{new}` already, or there was one",
                    code="adapter.name_taken",
                    where=new,
                    hint=f"Choose another name: `{new}@1` must never mean two adapters.",
                )
            return _key(found), {"event": "rename", "to": new}

        self._change(decide)
        return self.all(new)

    def remove(self, address: str) -> Adapter:
        """Take a version out; its files stay. Raises UsageError `adapter.needed` where something rests on it."""

        return self._about(address, {"event": "remove"}, _refuse_needed)

    def leave(self, folder: Path) -> list[str]:
        """Take out every version whose run is in this folder, all or none; returns their addresses. Raises UsageError
        `adapter.needed`."""
        with self.journal.lock(), self.index.open() as connection:
            places = {str(folder), str(folder.resolve())}
            found = [each for each in _select(connection, "WHERE run = ?", (folder.name,)) if each["folder"] in places]
            for each in found:
                _refuse_needed(connection, each, found)
            for each in found:
                event = {"event": "remove", "time": time.time(), "name": each["name"], "version": each["version"]}
                self.journal.add(event)
        return [each["address"] for each in found]

    def lineage(self, address: str) -> dict[str, Any]:
        """{adapter, parents: [the same, or {folder, content} where it is not registered], children: [address]}."""
        with self.index.open() as connection:
            found = _find(connection, address)
            children = [child["address"] for child in _children(connection, found["content"])]
            return _tree(connection, found) | {"children": children}

    def _about(
        self, address: str, event: Event, guard: Callable[[sqlite3.Connection, Adapter], None] = lambda *_: None
    ) -> Adapter:
        """Add an event about one version, unless the guard raises; returns the adapter as it was then."""
        kept: dict[str, Adapter] = {}

        def decide(connection: sqlite3.Connection) -> tuple[Key, Event]:
            kept["then"] = found = _find(connection, address)
            guard(connection, found)
            return _key(found), event

        self._change(decide)
        return kept["then"]

    def _change(self, decide: Callable[[sqlite3.Connection], tuple[Key, Event | None]]) -> Key:
        """Add the event that is decided on under the lock, if one is; returns which adapter it is about."""
        with self.journal.lock(), self.index.open() as connection:
            (name, version), event = decide(connection)
            if event is not None:
                about = {"event": event["event"], "time": time.time(), "name": name, "version": version}
                self.journal.add(about | event)
        return name, version

    def _one(self, key: Key) -> Adapter:
        with self.index.open() as connection:
            return _select(connection, "WHERE name = ? AND version = ?", key)[0]


def checked(name: str) -> str:
    """The name, if an adapter may have it. Raises UsageError `adapter.name`."""
    if NAME.fullmatch(name) and name not in entry.TAKEN:
        return name
    what = f"`{name}` means something else" if name in entry.TAKEN else f"{name!r} is no name"
    raise UsageError(
        what,
        code="adapter.name",
        hint="Names have small letters, digits, `.`, `_` and `-`, begin with a letter or digit, 64 at most.",
    )


def _select(connection: sqlite3.Connection, rest: str, values: Any = ()) -> list[Adapter]:
    return [row(found) for found in connection.execute(f"SELECT {COLUMNS} FROM adapters {rest}", tuple(values))]


def _look(connection: sqlite3.Connection, address: str) -> Adapter | None:
    parts = ADDRESS.fullmatch(address)
    if not parts:
        return None
    where, values = "WHERE name = ?", [parts["name"]]
    if which := parts["which"]:
        where += " AND version = ?" if which.isdigit() else " AND stage = ?"
        values.append(which)
    return next(iter(_select(connection, f"{where} ORDER BY version DESC LIMIT 1", values)), None)


def _find(connection: sqlite3.Connection, address: str) -> Adapter:
    found = _look(connection, address)
    if found is None:
        raise _missing(connection, address)
    return found


def _missing(connection: sqlite3.Connection, address: str) -> InputError:
    name = address.partition("@")[0]
    numbers: dict[str, list[int]] = {}
    for each in _select(connection, "ORDER BY name, version DESC"):
        numbers.setdefault(each["name"], []).append(each["version"])
    near = difflib.get_close_matches(name, numbers, n=1, cutoff=0.5)
    if name in numbers:
        hint = f"`{name}` has the versions {', '.join(map(str, numbers[name][:8]))}"
    elif near:
        hint = f"did you mean {near[0]}? `ft adapters list` shows all"
    elif numbers:
        hint = "`ft adapters list` shows all"
    else:
        hint = "none is registered yet: every run that `ft train` finishes is"
    return InputError(f"there is no adapter `{address}`", code="adapter.missing", where="", hint=hint)


def _refuse_needed(connection: sqlite3.Connection, found: Adapter, beside: Sequence[Adapter] = ()) -> None:
    """A version in a stage, or the last one of a content that others came from. `beside` go as well."""
    if found["stage"]:
        raise _needed(found, f"it is in {found['stage']}", f"ft adapters promote {found['address']} --stage none")
    going = {each["address"] for each in (found, *beside)}
    twins = _select(connection, "WHERE content = ?", (found["content"],))
    children = [each for each in _children(connection, found["content"]) if each["address"] not in going]
    if children and all(twin["address"] in going for twin in twins):
        names = ", ".join(child["address"] for child in children)
        raise _needed(found, f"{names} went on from it", "remove what came from it first")


def _key(found: Adapter) -> Key:
    return found["name"], found["version"]


def _last(connection: sqlite3.Connection, name: str) -> int:
    """The highest number that a name ever had."""
    found = connection.execute("SELECT last FROM numbers WHERE name = ?", (name,)).fetchone()
    return int(found[0]) if found else 0


def _children(connection: sqlite3.Connection, content: str) -> list[Adapter]:
    inside = "WHERE (name, version) IN (SELECT name, version FROM parents WHERE content = ?) ORDER BY name, version"
    return _select(connection, inside, (content,))


def _tree(connection: sqlite3.Connection, found: Adapter, depth: int = 0) -> dict[str, Any]:
    """An adapter and what it came from; a hundred generations at most."""
    parents = []
    for parent in found.get("parents", ()) if depth < 100 else ():
        known = _select(connection, "WHERE content = ? ORDER BY time LIMIT 1", (parent["content"],))
        parents.append(_tree(connection, known[0], depth + 1) | {"how": parent["how"]} if known else parent)
    return {"adapter": found, "parents": parents}


def _needed(found: Adapter, why: str, remedy: str) -> UsageError:
    return UsageError(
        f"{found['address']} can't be removed: {why}",
        code="adapter.needed",
        where=found["address"],
        hint=f"First: {remedy}.",
    )
