"""A kill, a short write, EIO or ENOSPC at an operation of a run; a disk with room for so many bytes; damage."""

from __future__ import annotations

import random
from pathlib import Path

import damaged
import failing
import pytest
import small_run


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> small_run.Result:
    return small_run.result(small_run.start(tmp_path_factory.mktemp("straight") / "run"))


@pytest.mark.parametrize("action", failing.ACTIONS)
def test_a_fault_at_an_operation(action: str, expected: small_run.Result, tmp_path: Path) -> None:
    """At twelve places in the run, others for each action."""
    count = len(failing.operations(tmp_path / "all"))
    for moment in sorted(random.Random(action).sample(range(1, count + 1), 12)):
        folder = tmp_path / str(moment)
        disk = failing.Failing(moment, action)
        saved, end = failing.attempt(folder, disk)
        assert disk.struck, moment
        assert end in ("done", "killed", "disk.failed", "disk.full"), moment
        assert failing.wrong(folder, saved, end, expected) == [], (moment, disk.struck)


def test_a_disk_that_fills_up(expected: small_run.Result, tmp_path: Path) -> None:
    """With room for any number of bytes: the last checkpoint stays, and with room again the run goes on."""
    for number, room in enumerate(range(500, 24_000, 1500)):
        folder = tmp_path / str(number)
        saved, end = failing.attempt(folder, failing.Failing(room=room))
        assert end == "disk.full", room
        assert failing.wrong(folder, saved, end, expected) == [], room


def test_bytes_that_change_are_found(tmp_path: Path) -> None:
    run = small_run.start(tmp_path / "run")
    assert list(damaged.overlooked(run, 300, seed=0)) == []
    assert damaged.false_alarms(run) == []
