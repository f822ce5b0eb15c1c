"""Addresses: `last`, ids, prefixes, paths, checkpoints; and the run that --resume means."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from truetune.errors import InputError, UsageError
from truetune.runs.checkpoints import Checkpoints
from truetune.runs.find import find, listing, newest_resumable, parse
from truetune.runs.run import Run
from truetune.runs.status import Status

Make = Callable[..., Run]


def dated(run: Run, created: float) -> Run:
    path = run.folder / "status.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"created": created}))
    return run


@pytest.fixture
def three(make: Make) -> list[Run]:
    names = ("20260101-000000-starter-aaaa", "20260102-000000-starter-bbbb", "20260103-000000-other-cccc")
    return [dated(make(name), day) for day, name in enumerate(names, start=1)]


def test_last_id_and_prefix(three: list[Run]) -> None:
    assert find().id == find("last").id == three[2].id
    assert find(three[0].id).id == three[0].id
    assert find("20260102").id == three[1].id


def test_an_id_that_begins_another_is_itself(make: Make) -> None:
    make("abc")
    make("abcd")
    assert find("abc").id == "abc"


def test_an_ambiguous_prefix_lists_the_candidates(three: list[Run]) -> None:
    with pytest.raises(UsageError) as caught:
        find("2026010")
    finding = caught.value.finding
    assert finding.code == "run.ambiguous" and "3 runs" in finding.message
    assert all(run.id in finding.hint for run in three)


def test_an_unknown_run_names_the_nearest(three: list[Run]) -> None:
    with pytest.raises(InputError) as caught:
        find("20260102-000000-starter-bbbx")
    assert caught.value.finding.code == "run.missing" and three[1].id in caught.value.finding.hint


@pytest.mark.parametrize("address", ["last", "x", "", "./runs/nothing", "a" * 300, "../..", "x\0y"])
def test_no_run_at_all(address: str) -> None:
    with pytest.raises(InputError) as caught:
        find(address)
    assert (caught.value.finding.code, caught.value.exit_code) == ("run.missing", 3)


def test_a_path_is_always_a_path(three: list[Run], make: Make, place: Path, tmp_path: Path) -> None:
    away = make(tmp_path / "away")
    for address in (str(away.folder), f"./runs/{three[0].id}", f"runs/{three[0].id}"):
        assert find(address).folder.is_dir()
    assert find(str(away.folder)).id == "away"
    with pytest.raises(InputError):
        find(f"./{three[0].id}")


def test_runs_elsewhere_are_known_where_they_were_started(
    three: list[Run], make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = make(tmp_path / "away")
    assert find("last").id == find("away").id == "away"
    (tmp_path / "another").mkdir()
    monkeypatch.chdir(tmp_path / "another")
    with pytest.raises(InputError):
        find("away")
    assert find(str(away.folder)).id == "away"


def test_a_home_that_cannot_be_written_stops_no_run(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRUETUNE_HOME", str(tmp_path / "file" / "home"))
    assert make(tmp_path / "away").resolved


def test_the_list_is_newest_first_and_passes_over_other_things(three: list[Run], place: Path) -> None:
    (place / "runs" / "notes").mkdir()
    (place / "runs" / ".tmp-x-00000000").mkdir()
    (place / "runs" / "file").write_text("")
    rows = listing()
    assert [row["id"] for row in rows] == [run.id for run in reversed(three)]
    assert rows[0]["state"] == "created" and rows[0]["folder"] == str(three[2].folder)


def test_a_run_with_a_checkpoint(run: Run) -> None:
    kept = Checkpoints(run)
    for step in (100, 200):
        kept.save(step, lambda folder: None, {})
    kept.mark_best(100, 1.0)
    found = {address: parse(address)[1] for address in ("one:best", "last:last", ":step-100", f"./runs/{run.id}:best")}
    assert [each.step if each else None for each in found.values()] == [100, 200, 100, 100]
    assert parse("one")[1] is None
    with pytest.raises(UsageError):
        parse("one:newest")
    for address in ("one:", "last:", ":"):
        with pytest.raises(UsageError, match="behind the colon"):
            parse(address)
    with pytest.raises(InputError):
        parse("one:step-5")


def test_a_colon_in_a_path_is_a_colon(make: Make, tmp_path: Path) -> None:
    away = make(tmp_path / "a:b")
    assert parse(str(away.folder))[0].id == "a:b"


class TestResumable:
    @pytest.fixture
    def file(self, place: Path) -> Path:
        path = place / "train.yml"
        path.write_text("version: 1\n")
        return path

    @pytest.fixture
    def start(self, make: Make, file: Path) -> Callable[..., Run]:
        def build(name: str, created: float, state: str, path: str | None = None, text: bytes | None = None) -> Run:
            content = hashlib.sha256(text if text is not None else file.read_bytes()).hexdigest()
            run = make(name, source={"path": path or str(file.resolve()), "sha256": content})
            if state != "created":
                Status.update(run, state=state)
            return dated(run, created)

        return build

    @pytest.mark.parametrize(
        ("state", "fits"),
        [("created", True), ("stopped", True), ("failed", True), ("running", False), ("finished", False)],
    )
    def test_states(self, start: Callable[..., Run], file: Path, state: str, fits: bool) -> None:
        start("a", 1, state)
        assert bool(newest_resumable(file)) is fits

    def test_the_newest_of_this_path_comes_first_then_of_this_content(
        self, start: Callable[..., Run], file: Path
    ) -> None:
        start("content", 9, "stopped", path="/elsewhere/train.yml")
        assert (found := newest_resumable(file)) and found.id == "content"
        start("old", 1, "stopped", text=b"edited since")
        start("new", 2, "failed")
        start("done", 3, "finished")
        assert (found := newest_resumable(file)) and found.id == "new"

    def test_runs_without_a_source_and_damaged_ones_are_passed_over(
        self, start: Callable[..., Run], make: Make, file: Path
    ) -> None:
        make("nosource", source=None)
        (make("damaged").folder / "env.json").write_text("{")
        assert newest_resumable(file) is None

    def test_a_file_that_is_not_there(self, place: Path) -> None:
        with pytest.raises(InputError) as caught:
            newest_resumable(place / "nothing.yml")
        assert caught.value.finding.code == "config.no_file"
