"""SQLite over the journal, so that ten thousand adapters are listed and found at once. It can always be made anew.

Every event is applied in order, so an index that has followed the journal and one that is made from all of it have
equal rows. `registry.sqlite` stands in the cache.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson

from truetune import paths
from truetune.registry.journal import Event, Journal

VERSION = 2
"""Of the tables; an index of another version is made anew."""
PATIENCE = 30.0
"""Seconds that one process waits while another writes."""

TABLES = """
CREATE TABLE progress (place INTEGER NOT NULL, digest TEXT NOT NULL);
CREATE TABLE numbers (name TEXT PRIMARY KEY, last INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE adapters (
    name TEXT NOT NULL, version INTEGER NOT NULL, run TEXT NOT NULL, content TEXT NOT NULL, time REAL NOT NULL,
    stage TEXT, note TEXT, body TEXT NOT NULL, PRIMARY KEY (name, version)) WITHOUT ROWID;
CREATE INDEX by_run ON adapters (run);
CREATE INDEX by_content ON adapters (content);
CREATE INDEX by_time ON adapters (time DESC, name, version DESC);
CREATE TABLE parents (name TEXT NOT NULL, version INTEGER NOT NULL, content TEXT NOT NULL);
CREATE INDEX by_parent ON parents (content);
CREATE INDEX by_child ON parents (name, version);
"""
COLUMNS = "name, version, time, stage, note, body"


class Index:
    """Adapters as the journal has them now. Raises InputError `registry.damaged` for a journal that can't be read."""

    def __init__(self, journal: Journal, path: Path | None = None) -> None:
        self.journal = journal
        self.path = path or paths.cache() / "registry.sqlite"

    @contextmanager
    def open(self) -> Iterator[sqlite3.Connection]:
        """A connection to an index that has followed the journal to its end."""
        try:
            connection = self._opened()
            self._follow(connection)
        except sqlite3.DatabaseError:
            for each in (self.path, *(self.path.with_name(self.path.name + end) for end in ("-wal", "-shm"))):
                with suppress(FileNotFoundError):
                    each.unlink()
            connection = self._opened()
            self._follow(connection)
        with closing(connection):
            yield connection

    def _opened(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = OFF")  # a lost index is made anew
        except sqlite3.DatabaseError:
            connection.close()
            raise
        return connection

    def _follow(self, connection: sqlite3.Connection) -> None:
        """Apply what the journal has gained; begin anew where it is not the one that was followed."""
        if self._place(connection) == self.journal.size():
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            begun = self._place(connection)
            if begun is None:
                _create(connection)
            place = begun or 0
            for end, event in self.journal.read(place):
                apply(connection, event)
                place = end
            digest = _digest(self.journal.line_before(place))
            connection.execute("DELETE FROM progress")
            connection.execute("INSERT INTO progress VALUES (?, ?)", (place, digest))
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise

    def _place(self, connection: sqlite3.Connection) -> int | None:
        """How much of the journal has been applied; None where that can't be said of this journal."""
        if connection.execute("PRAGMA user_version").fetchone()[0] != VERSION:
            return None
        row = connection.execute("SELECT place, digest FROM progress").fetchone()
        if row is None or row[0] > self.journal.size() or row[1] != _digest(self.journal.line_before(row[0])):
            return None
        return int(row[0])


def apply(connection: sqlite3.Connection, event: Event) -> None:
    """Change the rows as the event says; an event that is not known changes nothing."""
    kind = event["event"]
    if kind == "register":
        _register(connection, event)
    elif kind == "promote":
        _promote(connection, event)
    elif kind == "rename":
        for table in ("adapters", "parents"):
            connection.execute(f"UPDATE {table} SET name = ? WHERE name = ?", (event["to"], event["name"]))
        last = connection.execute("SELECT last FROM numbers WHERE name = ?", (event["name"],)).fetchone()
        _number(connection, event["to"], last[0] if last else 0)
    elif kind == "remove":
        for table in ("adapters", "parents"):
            where = (event["name"], event["version"])
            connection.execute(f"DELETE FROM {table} WHERE name = ? AND version = ?", where)


def _register(connection: sqlite3.Connection, event: Event) -> None:
    name, version = event["name"], event["version"]
    body = {key: value for key, value in event.items() if key not in ("event", "name", "version", "time")}
    text = json.dumps(body, sort_keys=True, ensure_ascii=False)
    row = (name, version, event["run"], event["content"], event["time"], None, None, text)
    connection.execute("INSERT OR REPLACE INTO adapters VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
    connection.execute("DELETE FROM parents WHERE name = ? AND version = ?", (name, version))
    for parent in event.get("parents", ()):
        connection.execute("INSERT INTO parents VALUES (?, ?, ?)", (name, version, parent["content"]))
    _number(connection, name, version)


def _promote(connection: sqlite3.Connection, event: Event) -> None:
    """One version of a name holds a stage; the one before it loses it."""
    name, version, stage = event["name"], event["version"], event["stage"]
    if stage is not None:
        connection.execute("UPDATE adapters SET stage = NULL WHERE name = ? AND stage = ?", (name, stage))
    note = event.get("note")
    connection.execute(
        "UPDATE adapters SET stage = ?, note = coalesce(?, note) WHERE name = ? AND version = ?",
        (stage, note, name, version),
    )


def _number(connection: sqlite3.Connection, name: str, version: int) -> None:
    """The highest number that a name has ever had: none is given twice."""
    connection.execute(
        "INSERT INTO numbers VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET last = max(last, excluded.last)",
        (name, version),
    )


def _create(connection: sqlite3.Connection) -> None:
    for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        connection.execute(f"DROP TABLE {table}")
    for statement in TABLES.split(";"):
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {VERSION}")


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def row(values: tuple[Any, ...]) -> dict[str, Any]:
    """An adapter from `COLUMNS`."""
    name, version, time, stage, note, body = values
    own = {"name": name, "version": version, "address": f"{name}@{version}", "stage": stage, "note": note}
    known: dict[str, Any] = own | {"time": time} | orjson.loads(body)
    return known
