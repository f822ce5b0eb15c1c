"""The run folder: create, open, lock, stop, names."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truetune.errors import InputError, UsageError
from truetune.runs.run import NAME, Run, new_id

HOLD = (
    "import sys\nfrom pathlib import Path\nfrom truetune.runs.run import Run\n"
    "with Run(Path(sys.argv[1])).lock():\n    print('held', flush=True)\n    sys.stdin.read()\n"
)


def test_a_run_is_what_was_put_in(run: Run, make: Callable[..., Run]) -> None:
    again = Run.open(run.folder)
    assert (again.id, again.train_yml) == ("one", b"version: 1\n")
    assert again.resolved == {"schema": 1, "seed": 42} and again.env == {"schema": 1}
    assert stat.S_IMODE(run.folder.stat().st_mode) & 0o700 == 0o700
    assert sorted(os.listdir(run.folder)) == ["env.json", "resolved.json", "status.json", "train.yml"]
    assert make("text", text=b"\xff\r\n# as written").train_yml == b"\xff\r\n# as written"


def test_a_folder_with_a_run_is_refused(run: Run, make: Callable[..., Run]) -> None:
    with pytest.raises(UsageError) as caught:
        make("one", text=b"other")
    assert (caught.value.finding.code, caught.value.exit_code) == ("run.exists", 2)
    assert "--resume" in caught.value.finding.hint
    assert run.train_yml == b"version: 1\n"


def test_a_folder_with_something_else_is_refused_and_an_empty_one_is_fine(
    place: Path, make: Callable[..., Run]
) -> None:
    (place / "mine").mkdir()
    (place / "mine" / "thesis.txt").write_text("precious")
    (place / "file").write_text("precious")
    for name in ("mine", "file"):
        with pytest.raises(UsageError) as caught:
            make(place / name)
        assert caught.value.finding.code == "run.folder_in_use"
    assert os.listdir(place / "mine") == ["thesis.txt"]
    (place / "empty").mkdir()
    assert make(place / "empty").resolved


def test_opening_what_is_no_run(place: Path) -> None:
    with pytest.raises(InputError) as caught:
        Run.open(place)
    assert (caught.value.finding.code, caught.value.exit_code) == ("run.missing", 3)


@pytest.mark.parametrize("damage", ["", "{", "[1]"])
def test_a_damaged_file_is_one_sentence(run: Run, damage: str) -> None:
    (run.folder / "resolved.json").write_text(damage)
    with pytest.raises(InputError) as caught:
        _ = Run.open(run.folder).resolved
    assert caught.value.finding.code == "run.damaged"


def test_one_process_holds_a_run(run: Run) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run.folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(UsageError) as caught, run.lock():
            pass
        assert caught.value.finding.code == "run.in_use" and str(other.pid) in caught.value.finding.message
        other.kill()
        other.wait()
    with run.lock(), pytest.raises(UsageError), run.lock():
        pass
    with run.lock():
        pass


def test_the_lock_clears_what_a_crash_left(run: Run) -> None:
    (run.folder / "checkpoints" / ".tmp-step-000002-00000000").mkdir(parents=True)
    (run.folder / ".tmp-status.json-00000000").write_text("half")
    with run.lock():
        assert os.listdir(run.folder / "checkpoints") == []
        assert not [name for name in os.listdir(run.folder) if name.startswith(".tmp")]


def test_stop(run: Run) -> None:
    assert not run.stop_requested()
    run.request_stop()
    assert run.stop_requested()
    run.clear_stop()
    run.clear_stop()
    assert not run.stop_requested()


def test_log_lines_carry_the_time(run: Run) -> None:
    run.log("one\ntwo")
    run.log("three")
    lines = (run.folder / "log.txt").read_text().splitlines()
    assert [line[20:] for line in lines] == ["one", "two", "three"]
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in lines)


def test_an_id_reads_as_in_the_contract() -> None:
    name = new_id("Meta/Starter", "support", now=datetime(2026, 11, 21, 14, 30, 5))
    assert re.fullmatch(r"20261121-143005-starter-support-[a-z0-9]{4}", name)


@given(st.lists(st.text(max_size=80), max_size=4))
def test_every_id_is_a_name(parts: list[str]) -> None:
    assert NAME.fullmatch(new_id(*parts, now=datetime(2026, 1, 1)))
