"""`make faults`: the long version of the harness, in parts. `--write` puts each part's figures into
docs/evidence/faults.json as it ends; parts that the file holds for this commit are not run again.

python tests/faults/every_fault.py [--scale 0.01] [--only PART …] [--estimate] [--write]
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import clocks
import damaged
import failing
import power
import small_run
import whole_runs
from killing import in_memory

ROOT = Path(__file__).parents[2]
EVIDENCE = ROOT / "docs" / "evidence" / "faults.json"
Figures = dict[str, Any]


def cuts(count: int, room: Path) -> Figures:
    (room / "rec").mkdir()
    recording = power.record(room / "rec")
    each = max(1, count // len(recording.entries) * 2)
    done, found = power.survey(recording, room / "room", each=each, whole=20)
    return {"tried": done, "operations": len(recording.entries), "resumed_to_the_end": done // 20, "wrong": found}


def faults(count: int, room: Path) -> Figures:
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


def full(count: int, room: Path) -> Figures:
    expected = small_run.result(small_run.start(room / "straight"))
    wrong, ends = [], 0
    for number in range(count):
        folder, bytes_ = room / str(number), 200 + number * 26_000 // count
        saved, end = failing.attempt(folder, failing.Failing(room=bytes_))
        ends += end == "disk.full"
        wrong += [f"{bytes_} bytes: {text}" for text in failing.wrong(folder, saved, end, expected)]
    return {"tried": count, "disk_full": ends, "wrong": wrong}


def damages(count: int, room: Path) -> Figures:
    run = small_run.start(room / "run")
    missed = [str(each) for each in damaged.overlooked(run, count, seed=0)]
    alarms = sum(bool(damaged.false_alarms(run)) for _ in range(max(1, count // 10)))
    return {"tried": count, "intact": max(1, count // 10), "false_alarms": alarms, "wrong": missed}


def memory(count: int, room: Path) -> Figures:
    import short_memory  # which imports torch: programs that fork are started before

    return short_memory.hunt(count, room)


def program(file: str, *args: str) -> Callable[[int, Path], Figures]:
    """A program beside this one, with the count as its next argument and a seed of its own as the last."""

    def run(count: int, room: Path) -> Figures:
        env = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        line = [sys.executable, str(Path(__file__).with_name(file)), *args, str(count), str(int(time.time()))]
        done = subprocess.run(line, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            return {"wrong": [done.stderr[-2000:]]}
        found: Figures = json.loads(done.stdout)
        return found

    return run


ALL = 0
PARTS: dict[str, tuple[int, Callable[[int, Path], Figures]]] = {
    "kills torch": (500, program("forked.py", "kills", "torch")),
    "kills mlx": (200, program("forked.py", "kills", "mlx")),
    "kills small": (500, program("forked.py", "kills", "small")),
    "edges torch": (ALL, program("forked.py", "edges", "torch")),
    "edges small": (ALL, program("forked.py", "edges", "small")),
    "endings": (ALL, program("endings.py")),
    "stops torch": (100, program("forked.py", "stops", "torch")),
    "disks after a cut": (10_000, cuts),
    "write faults": (2000, faults),
    "full disks": (200, full),
    "damages": (10_000, damages),
    "kernel faults small": (ALL, program("syscalls.py", "small")),
    "kernel faults torch": (ALL, program("syscalls.py", "torch")),
    "clock jumps": (500, clocks.hunt),
    "short memory": (30, memory),
    "cold starts": (20, whole_runs.cold),
    "saving": (60, lambda count, room: whole_runs.saving(room, count)),
}
"""Name -> (how often in full, what runs it); `ALL`: each there is."""
SAMPLE = 6
"""Of a part that tries all there is, when a share is asked for."""


SLICED = 50
"""Kills and stops are written down after so many, cold starts after each: a part goes on where it was cut off."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="Share of the full counts.")
    parser.add_argument("--only", action="append", choices=[*PARTS], help="These parts.")
    parser.add_argument("--estimate", action="store_true", help="Also say how long each part takes in full.")
    parser.add_argument("--write", action="store_true", help="Write docs/evidence/faults.json.")
    asked = parser.parse_args()
    failed = False
    for name in asked.only or PARTS:
        figures = whole(name, asked.scale, keep=asked.write)
        print(name, json.dumps(figures), flush=True)
        if asked.estimate:
            print(f"{name}: about {estimate(name, figures):,.0f} s in full", flush=True)
        failed |= bool(figures["wrong"])
    sys.exit(failed)


def whole(name: str, scale: float, *, keep: bool) -> Figures:
    """A part's figures: what the file holds of this commit, and the rest measured."""
    same = {"commit": head(), "scale": scale}
    total, figures = amount(name, scale), read().get("parts", {}).get(name, {}) if keep else {}
    if {each: figures.get(each) for each in same} != same:
        figures = {}
    slices = {"cold starts": 1, "saving": total}.get(name, SLICED if name.startswith(("kills", "stops")) else total)
    while "asked" not in figures or figures["asked"] < total:
        count = min(slices, total - figures.get("asked", 0))
        figures = merged(figures, {"asked": count} | measured(name, count)) | same
        if keep:
            write(name, figures)
    return figures


def amount(name: str, scale: float) -> int:
    """How often; 0 = all there is."""
    count = PARTS[name][0]
    if name == "saving":
        return count
    return (0 if scale >= 1 else SAMPLE) if count == ALL else max(1, round(count * scale))


def measured(name: str, count: int) -> Figures:
    began = time.monotonic()
    with tempfile.TemporaryDirectory() if name == "saving" else in_memory() as room:
        found = PARTS[name][1](count, Path(room))
    return found | {"seconds": round(time.monotonic() - began, 1)}


def merged(figures: Figures, more: Figures) -> Figures:
    """Counts are added, lists joined, of times of one thing the longest is kept."""
    both: Figures = figures | more
    for name in figures.keys() & more.keys():
        one, other = figures[name], more[name]
        if isinstance(one, dict):
            both[name] = {each: one.get(each, 0) + other.get(each, 0) for each in one | other}
        elif name.startswith(("seconds_of", "longest")):
            both[name] = max(one, other)
        elif not isinstance(one, str):
            both[name] = round(one + other, 1) if isinstance(one, float) else one + other
    return both


def estimate(name: str, figures: Figures) -> float:
    """Seconds, from a share; what starts a part is counted as if it grew with it."""
    done = figures.get("landed", figures.get("stopped", figures.get("tried", 1))) or 1
    in_full = figures.get("of", PARTS[name][0]) or done
    return float(figures["seconds"] * in_full / done) if name != "saving" else float(figures["seconds"])


def read() -> Figures:
    found: Figures = json.loads(EVIDENCE.read_text()) if EVIDENCE.exists() else {}
    return found


def write(name: str, figures: Figures) -> None:
    """Put a part's figures into the file; several of these programs may be at work."""
    with (Path(tempfile.gettempdir()) / "truetune-every-fault.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        parts = read().get("parts", {}) | {name: figures}
        body = about() | {"parts": {each: parts[each] for each in PARTS if each in parts}}
        aside = EVIDENCE.with_suffix(".tmp")
        aside.write_text(json.dumps(body, indent=2) + "\n")
        aside.rename(EVIDENCE)


def about() -> Figures:
    names = ("torch", "mlx", "numpy", "safetensors")
    return {
        "command": "make faults",
        "versions": {"python": platform.python_version()} | {name: version(name) for name in names},
        "cores": os.cpu_count(),
    }


def head() -> str:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return commit.stdout.strip()


if __name__ == "__main__":
    main()
