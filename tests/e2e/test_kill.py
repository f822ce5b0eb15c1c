"""A run that is killed or stopped at any moment goes on as if nothing had happened: bit by bit the straight run."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from dataclasses import dataclass
from os import killpg
from pathlib import Path

import pytest
from real_ft import Ft, Said, kill, ready, started, still, wait

pytestmark = pytest.mark.slow

STEPS = 24
SECTIONS = {
    "method": {"dropout": 0.05},
    "training": {"max_steps": STEPS, "epochs": 20},
    "evaluation": {"every": "7 steps", "samples": 1},
    "checkpoints": {"every": "4 steps", "keep": 2},
    "resources": {"memory": "3GB"},
}
"""The memory is fixed, because the cut into micro-batches follows from it and bits follow from the cut."""


@dataclass(frozen=True)
class Result:
    """What two runs must have in common: every loss by step, the adapter's bytes, and its counts."""

    losses: dict[int, float]
    held_out: dict[int, float]
    adapter: bytes
    supervised: int


def result(folder: Path) -> Result:
    """Read from the files themselves; where a step was done twice, the later attempt counts."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    by_kind = {kind: {row["step"]: row["loss"] for row in rows if row["kind"] == kind} for kind in ("train", "eval")}
    counted = json.loads((folder / "receipts" / "train.json").read_text())["supervised"]
    assert counted["promised"] == counted["counted"]
    adapter = (folder / "adapter" / "adapter_model.safetensors").read_bytes()
    return Result(by_kind["train"], by_kind["eval"], adapter, counted["counted"])


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The run that nobody disturbs."""
    ft = ready(tmp_path_factory.mktemp("straight"), **SECTIONS)
    said = ft("train", "-q")
    assert said.code == 0, said.err
    found = result(ft.run())
    assert sorted(found.losses) == list(range(1, STEPS + 1))
    assert sorted(found.held_out) == [0, 7, 14, 21, 24]
    return found


@pytest.fixture
def ft(tmp_path: Path) -> Ft:
    return ready(tmp_path, **SECTIONS)


def at_step(ft: Ft, step: int) -> subprocess.Popen[str]:
    """A training that has done so many steps, in the midst of the next ones."""
    process = started(ft)
    metrics = ft.run() / "metrics.jsonl"
    wait(lambda: metrics.read_text().count('"kind":"train"') >= step, process)
    time.sleep(random.uniform(0, 0.1))
    return process


def state(ft: Ft) -> str:
    (run,) = ft("runs", "list", "--json").document["runs"]
    return run["state"]


def equal(ft: Ft, straight: Result, moment: str = "") -> None:
    """The run in `ft` ended as the straight one did, and proves it."""
    folder = ft.run()
    found = result(folder)
    assert found.losses == straight.losses, moment
    assert found.held_out == straight.held_out, moment
    assert found.adapter == straight.adapter, moment
    assert found.supervised == straight.supervised, moment
    verdict = ft("receipt", "verify", "last", "--json")
    assert verdict.code == 0, (moment, verdict.out)
    assert state(ft) == "finished"
    left = [path.name for path in folder.rglob(".*")]
    assert left == [], moment


def test_kill_and_resume(ft: Ft, straight: Result) -> None:
    step = random.randint(4, STEPS // 2)
    kill(at_step(ft, step))
    assert state(ft) == "interrupted"
    said = ft("train", "train.yml", "--resume", "--json")
    assert said.code == 0, said.err
    assert said.document["figures"]["steps"] == STEPS
    equal(ft, straight, f"killed after step {step}")


def test_several_kills_in_a_row(ft: Ft, straight: Result) -> None:
    """Also while a resume is loading, and after the last step, while the result is written."""
    kill(started(ft))
    moments = [random.uniform(0.5, 6.5) for _ in range(4)]
    for moment in moments:
        process = ft.start("train", "train.yml", "--resume")
        time.sleep(moment)
        kill(process)
    if state(ft) != "finished":
        said = ft("train", "train.yml", "--resume")
        assert said.code == 0, (moments, said.err)
    equal(ft, straight, f"resumes killed after {moments} s")


@pytest.mark.parametrize("sign", [f"checkpoints/step-{STEPS:06}", "receipts/train.json"])
def test_a_kill_while_the_result_is_written(ft: Ft, straight: Result, sign: str) -> None:
    """Milliseconds before the end: where the kill comes too late, the run is finished and must be whole as well."""
    process = started(ft)
    (folder,) = ft.runs()
    wait((folder / sign).exists, process, pause=0.0005)
    kill(process)
    if state(ft) != "finished":
        said = ft("train", "train.yml", "--resume")
        assert said.code == 0, said.err
    equal(ft, straight, f"killed when {sign} was there")


def command_in(said: Said) -> list[str]:
    """The arguments of the command that a stop prints."""
    (line,) = [line for line in said.err.splitlines() if line.startswith("hint: ")]
    words = line.split("ft ", 1)[1].rstrip(".").split()
    assert words[:2] == ["train", "--from"]
    return words


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_polite_stop_prints_the_command_that_goes_on(ft: Ft, straight: Result, number: signal.Signals) -> None:
    step = random.randint(4, STEPS // 2)
    process = at_step(ft, step)
    killpg(process.pid, number)
    said = ft.end(process)
    assert (said.code, said.out) == (75, "")
    assert "Traceback" not in said.err
    (line,) = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert "stopped by" in line and "saved" in line
    assert state(ft) == "stopped"
    again = ft(*command_in(said))
    assert again.code == 0, again.err
    equal(ft, straight, f"stopped after step {step}")


def test_runs_stop(ft: Ft, straight: Result) -> None:
    process = started(ft)
    with still(process):
        stop = ft("runs", "stop", "--json")
    assert (stop.code, stop.document["stop"]) == (0, "requested")
    said = ft.end(process)
    assert said.code == 75
    assert "stop file" in said.err
    assert state(ft) == "stopped"
    again = ft("runs", "stop", "--json")
    assert (again.code, again.document["error"]["code"]) == (2, "run.not_running")
    assert ft("train", "--resume").code == 0
    equal(ft, straight)


def test_a_touched_stop_file_as_a_document(ft: Ft, straight: Result) -> None:
    process = ft.start("train", "--json")
    wait(ft.manifests, process)
    (ft.run() / "stop").touch()
    said = ft.end(process)
    error = said.document["error"]
    assert (said.code, error["code"], error["where"]) == (75, "run.stopped", ft.run().name)
    assert ft("train", "--from", error["where"], "-q").code == 0
    equal(ft, straight)


def test_a_second_run_keeps_off(ft: Ft) -> None:
    """A run that works is not resumed by another process, and a new one stands beside it."""
    process = started(ft)
    with still(process):
        said = ft("train", "--resume", "--json")
        assert (said.code, said.document["error"]["code"]) == (2, "resume.nothing")
        said = ft("train", "--from", "last", "--json")
        assert (said.code, said.document["error"]["code"]) == (2, "run.in_use")
    kill(process)


def test_a_checkpoint_in_the_middle_is_gone_back_to(ft: Ft, straight: Result) -> None:
    process = started(ft)
    wait(lambda: any(path.parent.name == "step-000012" for path in ft.manifests()), process)
    kill(process)
    folder = ft.run()
    oldest, *later = sorted(int(path.name.removeprefix("step-")) for path in (folder / "checkpoints").glob("step-*"))
    assert later
    said = ft("train", "--from", f"last:step-{oldest}", "-q")
    assert said.code == 0, said.err
    assert json.loads((folder / "receipts" / "train.json").read_text())["resumes"] == [oldest]
    assert result(folder) == straight


def test_a_damaged_checkpoint_is_set_aside(ft: Ft, straight: Result) -> None:
    process = started(ft)
    wait(lambda: any(path.parent.name == "step-000012" for path in ft.manifests()), process)
    kill(process)
    newest = max((ft.run() / "checkpoints").glob("step-*"))
    biggest = max(newest.iterdir(), key=lambda path: path.stat().st_size)
    biggest.write_bytes(biggest.read_bytes()[:-1])
    said = ft("train", "--resume")
    assert said.code == 0, said.err
    assert "is damaged" in said.err and "quarantine" in said.err
    assert result(ft.run()) == straight


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_engine_is_imported(ft: Ft, number: signal.Signals) -> None:
    process = ft.start("train")
    wait(lambda: list(ft.folder.glob("home/cache/tokens/*/meta.json")), process)
    process.send_signal(number)
    said = ft.end(process)
    assert said.code == 130, said.err
    assert "before the first step" in said.err and "hint:" in said.err
    assert ft.runs() == []


@pytest.mark.parametrize("numbers", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGINT)])
def test_a_second_signal_stops_at_once(tmp_path: Path, numbers: tuple[signal.Signals, ...]) -> None:
    """In a step of many seconds: the first waits for its end, the second does not. The memory keeps what is computed
    in one piece small: two of the same signal within it would be one."""
    ft = Ft(tmp_path)
    long = [{"text": " ".join(f"row {row} word {word}" for word in range(20))} for row in range(2400)]
    ft.write("long.jsonl", "".join(json.dumps(row) + "\n" for row in long))
    ft.config(
        data="long.jsonl",
        training={"batch_size": 2200, "gradient_accumulation_steps": 1},
        evaluation={"samples": 0},
        resources={"memory": "620MB"},
    )
    process = ft.start("train")
    wait(lambda: list(ft.folder.glob("runs/*/metrics.jsonl")), process)
    for number in numbers:
        time.sleep(3)
        assert process.poll() is None
        killpg(process.pid, number)
    said = ft.end(process)
    assert said.code == 130, said.err
    assert "stopped at once" in said.err and "Traceback" not in said.err
    assert '"kind":"train"' not in (ft.run() / "metrics.jsonl").read_text()
    assert state(ft) == "stopped"
