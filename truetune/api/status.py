"""The verb `status`: what this machine has left, and what its runs are doing, as their folders tell. No torch."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
import time
from itertools import pairwise
from pathlib import Path
from shlex import quote
from statistics import fmean
from typing import TYPE_CHECKING, Any

import psutil

from truetune import paths
from truetune.api.doctor import cores, existing

if TYPE_CHECKING:
    from truetune.runs.run import Run
    from truetune.runs.status import Status

DRIVER = Path("/proc/driver/nvidia/gpus")
OTHERS = 4
"""Runs that are shown beside those that are running."""
TAIL = 64 * 1024
"""Bytes at the end of metrics.jsonl that are read: some hundred steps, enough for the pace."""
LONGEST = 3000.0
"""Seconds between two steps that are believed: a step that seems to take longer, or none, is a clock that was set."""


def status(others: int = OTHERS) -> dict[str, Any]:
    """The machine, every running run, and the `others` last touched besides.

    `{"time", "machine": {"processor", "cores", "load", "memory": {"total", "used", "free"}, "disk": {"folder",
    "total", "free"}, "gpus": [{"name"}] | None}, "runs": [...], "more", "pulls": [...]}`: sizes in bytes, load of the
    last minute, `gpus` null where the system does not list them; `more` counts runs not shown. A run has id, folder,
    state, step, steps, loss, eval_loss, tokens_per_second, memory (of its process, null where there is none here),
    device_memory (of a GPU, as the run reports it), eta and silent (seconds to go and since its last sign of life),
    touched (seconds since 1970), error and next (the command to go on with). `pulls` are the models that are being
    pulled: {name, commit, bytes, total, pid}.
    """
    from truetune.runs.find import known

    runs = sorted(known(), key=lambda pair: (pair[1].state != "running", -touched(pair[1])))
    busy = sum(state.state == "running" for _, state in runs)
    shown = runs[: busy + others]
    return {
        "time": time.time(),
        "machine": machine(),
        "runs": [described(run, state) for run, state in shown],
        "more": len(runs) - len(shown),
        "pulls": pulls(),
    }


def pulls() -> list[dict[str, Any]]:
    """The models that are being pulled, in the foreground or the background."""
    if not (paths.home() / "models").is_dir():  # most have none, and need not wait for the hub's library
        return []
    from truetune.models import library

    running = [found for found in library.states() if found["state"] == "running"]
    return [{key: found.get(key) for key in ("name", "commit", "bytes", "total", "pid")} for found in running]


def machine() -> dict[str, Any]:
    """What there is, and what of it is free."""
    from truetune.models import memory

    total, free = memory.installed(), memory.available()
    folder = existing(paths.runs())
    disk = shutil.disk_usage(folder)
    return {
        "processor": processor(),
        "cores": cores(),
        "load": round(os.getloadavg()[0], 2),
        "memory": {"total": total, "used": total - free, "free": free},
        "disk": {"folder": str(paths.runs().absolute()), "total": disk.total, "free": disk.free},
        "gpus": gpus(),
    }


def processor(info: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name where the system tells it, else its architecture."""
    try:
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def gpus(driver: Path = DRIVER) -> list[dict[str, Any]] | None:
    """NVIDIA's GPUs by name, as the driver lists them; None where only a framework could tell."""
    if sys.platform != "linux":
        return None
    found = []
    for path in sorted(driver.glob("*/information")):
        lines = dict(line.partition(":")[::2] for line in path.read_text().splitlines())
        found.append({"name": lines.get("Model", "NVIDIA GPU").strip()})
    return found


def touched(state: Status) -> float:
    """When the run last wrote its status."""
    return max(state.created, state.heartbeat or 0.0, state.finished or 0.0)


def described(run: Run, state: Status) -> dict[str, Any]:
    """One run, as far as its folder and its process tell."""
    running = state.state == "running"
    rows = tail(run.folder / "metrics.jsonl") if running else []
    figures = state.figures
    return {
        "id": run.id,
        "folder": str(run.folder),
        "state": state.state,
        "step": state.step,
        "steps": state.steps,
        "loss": figures.get("loss"),
        "eval_loss": figures.get("eval_loss"),
        "tokens_per_second": figures.get("tokens_per_second") if running else None,
        "pid": state.pid if running else None,
        "memory": resident(state) if running else None,
        "device_memory": rows[-1].get("memory") if rows and on_gpu(run) else None,
        "eta": remaining(rows, state),
        "silent": max(0.0, time.time() - (state.heartbeat or state.created)) if running else None,
        "touched": touched(state),
        "error": state.error,
        "next": f"ft train --from {quote(run.id)}" if state.resumable else None,
    }


def tail(path: Path) -> list[dict[str, Any]]:
    """The last steps of the newest attempt; an empty list before the first."""
    from truetune.runs import jsonfile

    try:
        with path.open("rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - TAIL)
            file.seek(start)
            lines = file.read().splitlines()[bool(start) :]
    except OSError:
        return []
    rows = [row for row in map(jsonfile.parse, lines) if row]
    begun = max((number for number, row in enumerate(rows) if row.get("kind") == "resume"), default=-1)
    return [row for row in rows[begun + 1 :] if row.get("kind") == "train"]


def remaining(rows: list[dict[str, Any]], state: Status) -> float | None:
    """Seconds to go at the pace of the last steps, evaluations between them included; None before two of them."""
    taken = [after["time"] - before["time"] for before, after in pairwise(rows)]
    believed = [seconds for seconds in taken if 0 <= seconds <= LONGEST]
    if not believed or not state.steps:
        return None
    pace = fmean(believed)
    since = min(max(0.0, time.time() - rows[-1]["time"]), pace)
    return float(max(0.0, pace * (state.steps - rows[-1]["step"]) - since))


def resident(state: Status) -> int | None:
    """Bytes that the run's process holds in main memory; None where it runs on another machine or has just ended."""
    if state.pid is None or state.host != socket.gethostname():
        return None
    try:
        return int(psutil.Process(state.pid).memory_info().rss)
    except psutil.Error:
        return None


def on_gpu(run: Run) -> bool:
    """Whether what the run reports as its memory is a GPU's."""
    from truetune.errors import InputError

    try:
        return str(run.resolved["config"]["resources"]["device"]).startswith("cuda")
    except (InputError, KeyError):
        return False
