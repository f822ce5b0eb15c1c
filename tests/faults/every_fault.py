"""`make faults`: the long version of the harness. `--write` puts the figures into docs/evidence/faults.json.

python tests/faults/every_fault.py [--scale 0.01] [--write]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import damaged
import failing
import power
import small_run
import whole_runs

ROOT = Path(__file__).parents[2]
EVIDENCE = ROOT / "docs" / "evidence" / "faults.json"
GOALS = {"disks after a cut": 10_000, "write faults": 2000, "full disks": 200, "damages": 10_000, "cold starts": 20}
FORKED = {("kills", "torch"): 500, ("kills", "mlx"): 200, ("kills", "small"): 500, ("stops", "torch"): 100}


def cuts(count: int, room: Path) -> dict[str, Any]:
    (room / "rec").mkdir()
    recording = power.record(room / "rec")
    each = max(1, count // len(recording.entries) * 2)
    done, found = power.survey(recording, room / "room", each=each, whole=20)
    return {"tried": done, "operations": len(recording.entries), "resumed_to_the_end": done // 20, "wrong": found}


def faults(count: int, room: Path) -> dict[str, Any]:
    """Each action at every operation, or at as many of them as asked for."""
    expected = small_run.result(small_run.start(room / "straight"))
    operations = len(failing.operations(room / "all"))
    pairs = [(moment, action) for action in failing.ACTIONS for moment in range(1, operations + 1)]
    random.Random(0).shuffle(pairs)
    wrong = []
    for number, (moment, action) in enumerate(pairs[:count]):
        folder = room / str(number)
        saved, end = failing.attempt(folder, failing.Failing(moment, action))
        wrong += [f"{action} at {moment}: {text}" for text in failing.wrong(folder, saved, end, expected)]
    return {"tried": len(pairs[:count]), "operations": operations, "of": len(pairs), "wrong": wrong}


def full(count: int, room: Path) -> dict[str, Any]:
    expected = small_run.result(small_run.start(room / "straight"))
    wrong, ends = [], 0
    for number in range(count):
        folder, bytes_ = room / str(number), 200 + number * 26_000 // count
        saved, end = failing.attempt(folder, failing.Failing(room=bytes_))
        ends += end == "disk.full"
        wrong += [f"{bytes_} bytes: {text}" for text in failing.wrong(folder, saved, end, expected)]
    return {"tried": count, "disk_full": ends, "wrong": wrong}


def damages(count: int, room: Path) -> dict[str, Any]:
    run = small_run.start(room / "run")
    missed = [str(each) for each in damaged.overlooked(run, count, seed=0)]
    alarms = sum(bool(damaged.false_alarms(run)) for _ in range(max(1, count // 10)))
    return {"tried": count, "intact": max(1, count // 10), "false_alarms": alarms, "wrong": missed}


def forked(what: str, engine: str, count: int) -> dict[str, Any]:
    env = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    line = [sys.executable, str(Path(__file__).with_name("forked.py")), what, engine, str(count), str(int(time.time()))]
    done = subprocess.run(line, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"wrong": [done.stderr[-2000:]]}
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="Share of the full counts.")
    parser.add_argument("--write", action="store_true", help="Write docs/evidence/faults.json.")
    asked = parser.parse_args()
    figures: dict[str, Any] = {}
    for name, run in zip(GOALS, (cuts, faults, full, damages, whole_runs.cold), strict=True):
        with tempfile.TemporaryDirectory() as room:
            figures[name] = timed(run, max(1, round(GOALS[name] * asked.scale)), Path(room))
        print(name, json.dumps(figures[name]), flush=True)
    for (what, engine), count in FORKED.items():
        figures[f"{what} {engine}"] = timed(forked, what, engine, max(1, round(count * asked.scale)))
        print(what, engine, json.dumps(figures[f"{what} {engine}"]), flush=True)
    with tempfile.TemporaryDirectory() as room:
        figures["saving"] = timed(whole_runs.saving, Path(room))
    print("saving", json.dumps(figures["saving"]), flush=True)
    if asked.write:
        EVIDENCE.write_text(json.dumps(about() | {"scale": asked.scale, "figures": figures}, indent=2) + "\n")
    sys.exit(any(each["wrong"] for each in figures.values()))


def timed(run: Any, *args: Any) -> dict[str, Any]:
    began = time.monotonic()
    found: dict[str, Any] = run(*args)
    return found | {"seconds": round(time.monotonic() - began, 1)}


def about() -> dict[str, Any]:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    names = ("torch", "mlx", "numpy", "safetensors")
    return {
        "command": "make faults",
        "commit": commit.stdout.strip(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in names},
    }


if __name__ == "__main__":
    main()
