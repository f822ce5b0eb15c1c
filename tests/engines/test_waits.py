"""How torch's threads wait for each other follows from what else the machine does."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it is about libgomp")

from truetune.engines.torch import waits  # noqa: E402

BURN = "import time\nend = time.process_time() + 0.6\nwhile time.process_time() < end: pass"


def busy() -> float:
    """Seconds of processor time of all processes on our cores."""
    lines = Path("/proc/stat").read_text().splitlines()
    cores = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    ticks = sum(sum(map(int, line.split()[1:4])) for line in lines if line.split()[0] in cores)
    return ticks / os.sysconf("SC_CLK_TCK")


def tasks() -> int:
    return len(os.listdir("/proc/self/task"))


@pytest.mark.parametrize(("cores", "threads", "teams"), [(2, 2, 1), (4, 4, 1), (8, 4, 2), (16, 8, 2), (64, 2, 63)])
def test_as_many_teams_as_make_more_threads_than_cores(cores: int, threads: int, teams: int) -> None:
    assert waits.needed(cores, threads) == teams
    assert threads + teams * (threads - 1) > cores >= threads + (teams - 1) * (threads - 1)


def test_others_are_counted_and_this_process_is_not() -> None:
    others = waits.Others()
    subprocess.run([sys.executable, "-c", BURN], check=True)
    spent, (before, had) = 0.5, others.before
    assert others.cores() * (others.before[0] - before) >= spent
    assert others.before[1] > had
    whole, before, own = busy(), others.look()[1], time.process_time()
    while time.process_time() < own + 0.6:
        pass
    elsewhere = others.look()[1] - before
    assert busy() - whole - elsewhere >= 0.5


@pytest.mark.skipif(torch.get_num_threads() < 2, reason="one thread waits for nobody")
def test_teams_stand_while_others_need_the_cores() -> None:
    torch.ones(waits.PARALLEL).sum()  # this thread's own team
    watcher, before = waits.Watcher(torch.get_num_threads()), tasks()
    watcher.fit(float(os.cpu_count() or 1))
    held = tasks()
    watcher.fit(float(os.cpu_count() or 1))
    assert tasks() == held > before
    watcher.fit(0.0)
    ended = time.monotonic() + 5
    while tasks() > before and time.monotonic() < ended:
        time.sleep(0.01)
    assert tasks() <= before


@pytest.mark.parametrize(("others", "teams"), [(0.0, 0), (0.2, 0), (0.3, 1), (2.0, 1)])
def test_slack_is_left_to_others(monkeypatch: pytest.MonkeyPatch, others: float, teams: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    watcher = waits.Watcher(2)
    watcher.fit(others)
    assert len(watcher.teams) == teams
    watcher.fit(0.0)
    assert not watcher.teams


def test_many_teams_are_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)))
    watcher = waits.Watcher(2)
    watcher.fit(64.0)
    assert not watcher.teams


@pytest.mark.skipif(torch.get_num_threads() < 2, reason="one thread has no team")
def test_who_computes_alone_leaves_no_team() -> None:
    def grown(work: object) -> int:
        """Threads of the process that are there while a thread that has worked goes on."""
        worked, leave = threading.Event(), threading.Event()

        def run() -> None:
            work()  # type: ignore[operator]
            worked.set()
            leave.wait()

        before = tasks()
        thread = threading.Thread(target=run)
        thread.start()
        worked.wait()
        found = tasks() - before
        leave.set()
        thread.join()
        time.sleep(0.2)  # it is gone for Python before it is gone for the system
        return found

    def alone() -> None:
        with waits.alone():
            assert torch.get_num_threads() == 1
            torch.ones(waits.PARALLEL).sum()

    many = torch.get_num_threads()
    assert grown(alone) == 1
    assert torch.get_num_threads() == many
    assert grown(lambda: torch.ones(waits.PARALLEL).sum()) > 1


@pytest.mark.parametrize(("told", "watched"), [({}, True), ({"OMP_WAIT_POLICY": "active"}, False)])
def test_who_has_told_openmp_is_obeyed(monkeypatch: pytest.MonkeyPatch, told: dict[str, str], watched: bool) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    asked: list[int] = []
    monkeypatch.setattr(waits, "watcher", lambda process, threads: asked.append(threads))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    waits.watch()
    assert asked == ([2] if watched else [])
