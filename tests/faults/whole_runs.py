"""Runs of the real `ft` and the starter: what saving costs, and kills of processes that were started cold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import truetune as ft
from truetune.engines.base import Snapshot
from truetune.runs import durable
from truetune.runs.disk import Disk
from truetune.train import keeper
from truetune.train.keeper import Keeper
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


def saving(room: Path, steps: int = 60, *, beside: bool = True) -> dict[str, Any]:
    """What saving costs at the default cadence: the seconds for which it holds the loop up, and by how much the steps
    are slower beside which a checkpoint is written. Without `beside` it is written before the next step."""
    disk, held, written, watched = Timed(), list[float](), list[float](), Watched()
    before = durable.disk, Keeper.save, Keeper.write, Loop.take, keeper.snapshot

    def timed(real: Callable[..., Any], into: list[float]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            began = time.monotonic()
            try:
                return real(*args)
            finally:
                into.append(time.monotonic() - began)

        return call

    durable.disk, Keeper.save, Keeper.write = disk, timed(Keeper.save, held), timed(Keeper.write, written)  # type: ignore[method-assign]
    Loop.take = watched.around(Loop.take)  # type: ignore[method-assign]
    if not beside:
        keeper.snapshot = lambda engine: Snapshot((engine.save,), copied=False)
    try:
        ft.train(settings(room, steps))
    finally:
        durable.disk, Keeper.save, Keeper.write, Loop.take, keeper.snapshot = before  # type: ignore[method-assign]
    step = median(watched.alone)
    slowed = max(0.0, sum(seconds - step for seconds in watched.beside)) / len(written)
    whole = median(held) + slowed
    share = whole / (CADENCE * step + whole)
    return {
        "seconds_of_a_step": round(step, 4),
        "seconds_of_a_save": round(median(written), 4),
        "of_which_the_loop_waits": round(median(held), 4),
        "by_which_other_steps_are_slower": round(slowed, 4),
        "share_of_syncs": round(disk.seconds / sum(written), 2),
        "share_of_the_run": round(share, 5),
        "wrong": [] if share <= 0.02 else [f"saving takes {share:.1%} of the run"],
    }


class Watched:
    """Seconds of steps, alone and while a checkpoint was being written."""

    def __init__(self) -> None:
        self.alone, self.beside = list[float](), list[float]()

    def around(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def take(this: Loop, *args: Any) -> Any:
            into, began = self.beside if this.keeper.saver.thread.is_alive() else self.alone, time.monotonic()
            done = real(this, *args)
            into.append(time.monotonic() - began)
            return done

        return take


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
