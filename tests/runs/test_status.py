"""status.json: who is alive, and what a dead process leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from truetune.runs.run import Run
from truetune.runs.status import Status


def stored(run: Run) -> dict[str, object]:
    return json.loads((run.folder / "status.json").read_text())


def alter(run: Run, **changes: object) -> None:
    (run.folder / "status.json").write_text(json.dumps(stored(run) | changes))


def test_a_new_run_is_created(run: Run) -> None:
    status = Status.read(run)
    assert status.state == "created" and abs(status.created - time.time()) < 60
    assert stored(run)["schema"] == 1


def test_a_running_run_is_this_process(run: Run) -> None:
    Status.update(run, state="running", steps=10)
    status = Status.update(run, step=3, figures={"loss": 1.0})
    assert (status.pid, status.step, status.steps) == (os.getpid(), 3, 10)
    assert Status.read(run).state == "running"


def test_figures_are_merged_and_a_nan_is_none(run: Run) -> None:
    Status.update(run, figures={"loss": 1.0, "lr": 0.1})
    Status.update(run, figures={"loss": float("nan")})
    assert Status.read(run).figures == {"loss": None, "lr": 0.1}


def test_an_ended_run_keeps_its_error_until_it_runs_again(run: Run) -> None:
    Status.update(run, state="running")
    ended = Status.update(run, state="failed", error={"code": "train.nan"})
    assert ended.finished and Status.read(run).error == {"code": "train.nan"}
    again = Status.update(run, state="running")
    assert again.error is None and again.finished is None and again.started == ended.started


def test_a_killed_process_reads_as_interrupted(run: Run) -> None:
    code = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from truetune.runs.run import Run\nfrom truetune.runs.status import Status\n"
        "Status.update(Run(Path(sys.argv[1])), state='running')\n"
        "print(Status.read(Run(Path(sys.argv[1]))).state, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run.folder)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (-9, "running\n")
    assert Status.read(run).state == "interrupted" and Status.read(run).resumable
    assert stored(run)["state"] == "running", "reading writes nothing"
    assert Status.update(run, step=1).pid == os.getpid(), "a resume takes the run over"


def test_a_pid_given_out_again_is_not_taken_for_the_run(run: Run) -> None:
    status = Status.update(run, state="running")
    assert status.process_start is not None
    alter(run, process_start=status.process_start - 1000)
    assert Status.read(run).state == "interrupted"


def test_another_machine_is_believed(run: Run) -> None:
    Status.update(run, state="running")
    alter(run, host="elsewhere", pid=1, process_start=0)
    assert Status.read(run).state == "running"


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_status_lost_in_a_power_cut_reads_as_interrupted(run: Run, text: str) -> None:
    (run.folder / "status.json").write_text(text)
    status = Status.read(run)
    assert status.state == "interrupted" and status.created > 1e9


def test_a_key_of_a_later_version_is_ignored(run: Run) -> None:
    alter(run, novelty=1)
    assert Status.read(run).state == "created"
