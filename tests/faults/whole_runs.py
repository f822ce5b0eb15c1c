"""Runs of the real `ft` and the starter: what saving costs, and kills of processes that were started cold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import truetune as ft
from truetune.runs import durable
from truetune.runs.disk import Disk
from truetune.train.loop import Loop

CADENCE = 100
"""Steps between two checkpoints by default."""


def rows(folder: Path) -> Path:
    path = folder / "rows.jsonl"
    talk = ({"prompt": f"What does code {i} mean?", "completion": f"Oil part {i * 7 % 13}."} for i in range(40))
    path.write_text("".join(json.dumps(row) + "\n" for row in talk))
    return path


def settings(folder: Path, steps: int) -> dict[str, Any]:
    return {
        "model": "starter",
        "data": {"path": str(rows(folder))},
        "training": {"max_steps": steps, "epochs": 100},
        "evaluation": {"every": None, "samples": 0},
        "checkpoints": {"every": "5 steps", "best": False},
        "resources": {"device": "cpu", "engine": "torch"},
        "output": {"dir": str(folder / "run"), "log": []},
    }


class Timed(Disk):
    """Adds up the seconds that syncs take."""

    seconds = 0.0

    def flush(self, handle: int) -> None:
        began = time.monotonic()
        super().flush(handle)
        self.seconds += time.monotonic() - began


def saving(room: Path, steps: int = 60) -> dict[str, Any]:
    """Seconds of a step and of a save, medians, and what saving costs at the default cadence."""
    disk, saves, real, before = Timed(), list[tuple[float, float]](), Loop.save, durable.disk

    def save(loop: Loop) -> None:
        began, synced = time.monotonic(), disk.seconds
        real(loop)
        saves.append((time.monotonic() - began, disk.seconds - synced))

    times: list[float] = []
    durable.disk, Loop.save = disk, save  # type: ignore[method-assign]
    try:
        run = ft.train(settings(room, steps))
        times = [row["time"] for row in run.metrics("train")]
    finally:
        durable.disk, Loop.save = before, real  # type: ignore[method-assign]
    taken = [after - first for place, (first, after) in enumerate(pairwise(times), 1) if place % 5]
    step, whole, synced = median(taken), median(each[0] for each in saves), median(each[1] for each in saves)
    share = whole / (CADENCE * step + whole)
    return {
        "seconds_of_a_step": round(step, 4),
        "seconds_of_a_save": round(whole, 4),
        "share_of_syncs": round(synced / whole, 2),
        "share_of_the_run": round(share, 5),
        "wrong": [] if share <= 0.02 else [f"saving takes {share:.1%} of the run"],
    }


def cold(count: int, room: Path) -> dict[str, Any]:
    """`ft runs prove`, so many times."""
    ft.train(settings(room, 8))
    verdicts, wrong = [], []
    env = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    for number in range(count):
        line = [sys.executable, "-m", "truetune", "runs", "prove", str(room / "run"), "--json"]
        done = subprocess.run(line, env=env, capture_output=True, text=True, check=False)
        found = json.loads(done.stdout)
        verdicts.append(found.get("verdict"))
        if found.get("verdict") != "identical":
            wrong.append(f"{number}: {found.get('first_difference')} {found.get('error')}")
    return {"tried": count, "identical": verdicts.count("identical"), "wrong": wrong}
