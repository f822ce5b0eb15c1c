"""The journal is the truth: the index is made anew from it, crashes and many processes at once lose nothing."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from finished import finished
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from truetune.errors import InputError
from truetune.registry.catalog import Catalog
from truetune.registry.index import Index, apply
from truetune.registry.journal import Event, Journal


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRUETUNE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def dump(index: Index) -> list[str]:
    with index.open() as connection:
        return [line for line in connection.iterdump() if not line.startswith('INSERT INTO "progress"')]


NAMES, VERSIONS = st.sampled_from(["a", "b", "c"]), st.integers(1, 4)
BODY = {"run": "r", "content": "c", "parents": [{"content": "c", "how": "continued"}]}
EVENTS = st.one_of(
    st.builds(lambda name, v, run: {"event": "register", "name": name, "version": v, **BODY, "run": run}, NAMES,
              VERSIONS, st.sampled_from(["one", "two"])),
    st.builds(lambda name, v, s: {"event": "promote", "name": name, "version": v, "stage": s}, NAMES, VERSIONS,
              st.sampled_from(["staging", "production", None])),
    st.builds(lambda name, to: {"event": "rename", "name": name, "version": 1, "to": f"{name}{to}"}, NAMES,
              st.integers(1, 9)),
    st.builds(lambda name, v: {"event": "remove", "name": name, "version": v}, NAMES, VERSIONS),
    st.just({"event": "something later"}),
)  # fmt: skip


@given(st.lists(EVENTS, max_size=12), st.integers(0, 12))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_index_made_anew_equals_one_that_followed(
    tmp_path_factory: pytest.TempPathFactory, events: list[Event], half: int
) -> None:
    folder, renamed = tmp_path_factory.mktemp("registry"), set[str]()
    journal = Journal(folder / "registry.jsonl")
    followed = Index(journal, folder / "followed.sqlite")
    for number, event in enumerate(events):
        if event["event"] == "rename" and (event["to"] in renamed or renamed.add(event["to"])):
            continue  # a name that was used is refused before it becomes an event
        with journal.lock():
            journal.add({"time": float(number), **event})
        if number == half:
            dump(followed)
    anew = Index(journal, folder / "anew.sqlite")
    assert dump(followed) == dump(anew)


def test_a_line_that_a_crash_left_half_written_is_cut_off(home: Path, tmp_path: Path) -> None:
    catalog = Catalog()
    catalog.register(finished(tmp_path / "one", "1"), "a")
    with (home / "registry.jsonl").open("ab") as file:
        file.write(b'{"event": "remove", "name": "a", "ver')
    assert [each["address"] for each in catalog.all()] == ["a@1"]
    catalog.register(finished(tmp_path / "two", "2"), "a")
    assert [each["address"] for each in Catalog().all()] == ["a@2", "a@1"]
    assert all(json.loads(line) for line in (home / "registry.jsonl").read_text().splitlines())


def test_a_line_that_is_no_event_is_named(home: Path, tmp_path: Path) -> None:
    Catalog().register(finished(tmp_path / "one"), "a")
    with (home / "registry.jsonl").open("ab") as file:
        file.write(b"what is this\n")
    with pytest.raises(InputError, match="a line is no event") as caught:
        Catalog().all()
    assert caught.value.finding.code == "registry.damaged" and "byte" in caught.value.finding.where


@pytest.mark.parametrize("damage", [b"", b"no database at all, but long enough to be taken for one" * 40])
def test_a_damaged_index_is_made_anew(home: Path, tmp_path: Path, damage: bytes) -> None:
    Catalog().register(finished(tmp_path / "one"), "a")
    place = Index(Journal()).path
    for file in place.parent.glob("registry.sqlite*"):
        file.write_bytes(damage)
    assert Catalog().find("a@1")["run"] == "one"


def test_another_journal_makes_another_index(home: Path, tmp_path: Path) -> None:
    """Put back from a copy, it may be longer than the one that was followed, and still be another."""
    Catalog().register(finished(tmp_path / "one"), "a")
    journal = home / "registry.jsonl"
    journal.write_text(journal.read_text().replace('"name":"a"', '"name":"b"') * 2)
    assert [each["name"] for each in Catalog().all()] == ["b"]
    journal.unlink()
    assert Catalog().all() == []


WORKER = """
import sys
from pathlib import Path
from truetune.registry.catalog import Catalog
from truetune.runs.run import Run
catalog, number = Catalog(), int(sys.argv[2])
for folder in sorted(Path(sys.argv[1]).glob(f"{number}-*")):
    found = catalog.register(Run(folder), "shared")
    catalog.promote(found["address"], "staging")
    if int(folder.name.split("-")[1]) % 3 == 0:
        catalog.promote(found["address"], None)
        catalog.remove(found["address"])
"""


def test_many_processes_lose_nothing(home: Path, tmp_path: Path) -> None:
    processes, each = 3, 12
    for number in range(processes):
        for place in range(each):
            finished(tmp_path / f"{number}-{place}", f"{number} {place}")
    began = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path), str(number)]) for number in range(processes)
    ]
    assert [process.wait(timeout=300) for process in began] == [0] * processes
    found = Catalog().all()
    kept = {f"{number}-{place}" for number in range(processes) for place in range(each) if place % 3}
    assert {each["run"] for each in found} == kept
    assert len({each["version"] for each in found}) == len(kept) and max(each["version"] for each in found) <= 36
    assert sum(each["stage"] == "staging" for each in found) <= 1
    with sqlite3.connect(Index(Journal()).path) as connection:
        assert connection.execute("SELECT last FROM numbers").fetchall() == [(processes * each,)]


def test_unknown_events_change_nothing() -> None:
    connection = sqlite3.connect(":memory:")
    apply(connection, {"event": "of a later version"})
