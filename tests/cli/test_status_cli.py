"""`ft status`: the machine and the runs as their folders tell, once, repainted, and in a pipe."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from truetune import cli
from truetune.api import status as verb
from truetune.runs.metrics import Metrics
from truetune.runs.run import Run
from truetune.runs.status import Status

Call = Callable[..., tuple[int, str, str]]
FT = [sys.executable, "-m", "truetune", "status"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRUETUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


@pytest.fixture
def ft(capfd: pytest.CaptureFixture[str]) -> Call:
    def call(*args: str) -> tuple[int, str, str]:
        code = cli.run(("status", *args))
        return code, *capfd.readouterr()

    return call


def make(name: str, device: str = "cpu", **status: Any) -> Run:
    resolved = {"schema": 1, "config": {"resources": {"device": device}}}
    run = Run.create(Path("runs") / name, train_yml=b"", resolved=resolved, env={"schema": 1})
    if status:
        Status.update(run, **status)
    return run


def train(run: Run, steps: range, seconds: float = 2.0, memory: int = 0) -> None:
    """Rows of steps of so many seconds, the last one now."""
    path, now = run.folder / "metrics.jsonl", time.time()
    with path.open("a") as file:
        for step in steps:
            when = now - (steps[-1] - step) * seconds
            row = {"time": when, "attempt": 1, "step": step, "kind": "train", "loss": 1.0, "memory": memory}
            file.write(json.dumps(row) + "\n")


def document(ft: Call) -> Any:
    code, out, _ = ft("--json")
    assert code == 0
    return json.loads(out)


def test_no_run_yet(ft: Call) -> None:
    code, out, _ = ft()
    assert code == 0 and "ft demo" in out
    assert document(ft)["runs"] == []


def test_the_machine(ft: Call) -> None:
    machine = document(ft)["machine"]
    assert machine["memory"]["used"] + machine["memory"]["free"] == machine["memory"]["total"]
    assert machine["cores"] >= 1 and machine["processor"] and 0 < machine["disk"]["free"] <= machine["disk"]["total"]
    out = ft()[1]
    assert all(f"{label} " in out for label in ("cpu", "gpu", "memory", "disk"))


def test_a_running_run_says_how_far_and_how_long(ft: Call) -> None:
    run = make("one", state="running", steps=40)
    Status.update(run, step=10, figures={"loss": 1.25, "eval_loss": 1.5, "tokens_per_second": 5120.0})
    train(run, range(1, 11), memory=7)
    (found,) = document(ft)["runs"]
    assert found["eta"] == pytest.approx(60, abs=30)
    assert found["memory"] > 10_000_000 and found["device_memory"] is None and found["pid"] == os.getpid()
    assert (found["state"], found["step"], found["loss"], found["next"]) == ("running", 10, 1.25, None)
    out = ft()[1]
    assert "● one  running" in out and "10/40   loss 1.2500   held-out 1.5000" in out
    assert out.count("━") == 6 and out.count("─") == 18
    assert "5.1k tokens/s" in out and "to go" in out and "no sign of life" not in out


def test_the_pace_is_of_this_attempt_and_of_its_last_steps(ft: Call) -> None:
    run = make("one", state="running", steps=2000, step=1000)
    train(run, range(1, 900), seconds=50)
    Metrics(run.folder / "metrics.jsonl").resume(900)
    train(run, range(901, 1001), seconds=0.5)
    (found,) = document(ft)["runs"]
    assert found["eta"] == pytest.approx(500, abs=30)


def test_a_gpu_is_told_from_main_memory(ft: Call) -> None:
    run = make("one", device="cuda:0", state="running", steps=9)
    train(run, range(1, 3), memory=3 * 10**9)
    (found,) = document(ft)["runs"]
    assert found["device_memory"] == 3 * 10**9
    out = ft()[1]
    assert "3.0 GB on the GPU" in out and "runs here hold 3.0 GB" in out


def test_a_dead_process_is_no_running_run(ft: Call) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    make("gone", state="running", steps=9, step=3, pid=child.pid, process_start=1.0)
    (found,) = document(ft)["runs"]
    assert (found["state"], found["memory"], found["pid"]) == ("interrupted", None, None)
    assert "next    ft train --from gone" in ft()[1]


def test_a_failed_run_says_why_and_what_next(ft: Call) -> None:
    make("bad run", state="failed", steps=9, error={"message": "the loss is \x1b[31mNaN", "hint": "lower it"})
    out = ft()[1]
    assert re.search(r"✗ bad run  failed, \d+ s ago", out) and r"the loss is \x1b[31mNaN" in out and "lower it" in out
    assert "next    ft train --from 'bad run'" in out


def test_a_silent_run_is_asked_about(ft: Call) -> None:
    make("one", state="running", steps=9, heartbeat=time.time() - 600)
    assert re.search(r"no sign of life for 10:\d\d", ft()[1])


def test_running_ones_first_then_the_last_touched(ft: Call) -> None:
    for number in range(7):
        make(f"old-{number}", state="finished", steps=5, step=5, finished=time.time() + number)
    make("busy", state="running", steps=5)
    found = document(ft)
    assert [run["id"] for run in found["runs"]] == ["busy", "old-6", "old-5", "old-4", "old-3"]
    assert found["more"] == 3
    assert "and 3 runs more: ft runs list" in ft()[1]


def test_what_is_damaged_does_not_stop_it(ft: Call) -> None:
    run = make("one", state="running", steps=5)
    (run.folder / "metrics.jsonl").write_bytes(b'{"kind": "train", "step": 1, "time": 1}\n\xff{"tor')
    (run.folder / "resolved.json").write_bytes(b"{")
    assert document(ft)["runs"][0]["eta"] is None
    (run.folder / "status.json").write_bytes(b"")
    assert document(ft)["runs"][0]["state"] == "interrupted"


@pytest.mark.parametrize("args", [("--watch", "--json"), ("--interval", "2"), ("--watch", "--interval", "0")])
def test_what_does_not_go_together(ft: Call, args: tuple[str, ...]) -> None:
    code, out, err = ft(*args)
    assert code == 2
    assert "error" in out + err


def test_in_a_pipe_a_block_per_change_and_ctrl_c_is_the_end() -> None:
    run = make("one", state="running", steps=40, step=1)
    with subprocess.Popen([*FT, "--watch", "--interval", "0.1"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        before = [process.stdout.readline() for _ in range(8)]
        assert before[0].startswith("cpu ") and before[5] == "● one  running\n" and "1/40" in before[6]
        Status.update(run, step=2)
        after = [process.stdout.readline() for _ in range(2)]
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert after[0] == "● one  running\n" and "2/40" in after[1]
    assert "cpu" not in rest
    assert process.returncode == 0


def test_at_a_terminal_it_repaints_in_place() -> None:
    make("one", state="running", steps=40, step=1)
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    with subprocess.Popen(
        [*FT, "--watch", "--interval", "0.1"], stdout=follower, stdin=follower, stderr=follower, env=environment
    ) as process:
        os.close(follower)
        seen = b""
        while seen.count(b"one") < 3:
            seen += os.read(leader, 65536)
        process.send_signal(signal.SIGINT)
        while process.poll() is None:
            try:
                seen += os.read(leader, 65536)
            except OSError:  # the other end is closed
                break
    os.close(leader)
    assert process.returncode == 0
    assert b"\x1b[1A" in seen and b"Traceback" not in seen and b"error" not in seen


def test_it_loads_no_framework() -> None:
    code = "import sys; from truetune.cli import run; run(['status']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


def test_gpus_as_the_driver_lists_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    assert verb.gpus(tmp_path) == []
    place = tmp_path / "0000:01:00.0"
    place.mkdir()
    (place / "information").write_text("Model: \t\t NVIDIA H200\nIRQ:   \t 16\n")
    assert verb.gpus(tmp_path) == [{"name": "NVIDIA H200"}]
    monkeypatch.setattr(sys, "platform", "darwin")
    assert verb.gpus(tmp_path) is None
