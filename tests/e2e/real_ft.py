"""The real `ft`, as a process of its own in a folder of its own, and small things to train on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

LIMIT = 400
"""Seconds after which a process has hung, also on a machine that is slow and busy."""
TRAINING = {"max_steps": 4, "batch_size": 2, "gradient_accumulation_steps": 2, "learning_rate": 0.01}
SECTIONS: dict[str, Any] = {
    "data": {"path": "rows.jsonl", "validation": 8},
    "training": TRAINING,
    "evaluation": {"every": "2 steps", "samples": 1},
    "generation": {"temperature": 0, "max_new_tokens": 6},
    "resources": {"memory": "3GB"},
}
"""A few steps with all that a run does."""


@dataclass(frozen=True)
class Said:
    """What a command left behind: its exit code, stdout and stderr."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on stdout."""
        body = json.loads(self.out)
        assert body["schema"] == 1
        assert isinstance(body, dict)
        return body


class Ft:
    """`ft("train", "--json")` runs a command in `folder`; nothing outside of it is read or written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("TRUETUNE", "HF_", "OMP_"))}
        self.env = kept | {
            "TRUETUNE_HOME": str(folder / "home"),
            "HF_HOME": str(folder / "home" / "hub"),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",  # exact figures are promised for the same device
        }

    def __call__(self, *args: str) -> Said:
        process = self.start(*args)
        return self.end(process)

    def start(self, *args: str) -> subprocess.Popen[str]:
        """The command as a process group of its own, so that it can be killed whole."""
        line = [sys.executable, "-m", "truetune", *args]
        streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(line, cwd=self.folder, env=self.env, text=True, start_new_session=True, **streams)

    def end(self, process: subprocess.Popen[str], limit: float = LIMIT) -> Said:
        try:
            out, err = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return Said(process.returncode, out, err)

    def python(self, code: str) -> Said:
        """A Python program in this folder."""
        line = [sys.executable, "-c", code]
        done = subprocess.run(line, cwd=self.folder, env=self.env, text=True, capture_output=True, timeout=LIMIT)
        return Said(done.returncode, done.stdout, done.stderr)

    def write(self, name: str, text: str | bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def rows(self, count: int = 40, name: str = "rows.jsonl") -> Path:
        return self.write(name, "".join(json.dumps(row) + "\n" for row in rows(count)))

    def config(self, name: str = "train.yml", **sections: Any) -> Path:
        """A train.yml over the starter; JSON is YAML too, a section per line."""
        body = {"model": "starter", "data": "rows.jsonl"} | sections
        return self.write(name, "".join(f"{key}: {json.dumps(value)}\n" for key, value in body.items()))

    def run(self) -> Path:
        """The folder of the only run under ./runs."""
        (folder,) = self.runs()
        return folder

    def runs(self) -> list[Path]:
        return sorted(path for path in (self.folder / "runs").glob("*") if path.is_dir())

    def manifests(self) -> list[Path]:
        """Of every checkpoint of every run."""
        return list(self.folder.glob("runs/*/checkpoints/step-*/manifest.json"))

    def tree(self) -> dict[str, bytes]:
        """Every file below the folder but the caches, with its bytes."""
        files = (path for path in self.folder.rglob("*") if path.is_file())
        names = {path.relative_to(self.folder).as_posix(): path for path in files}
        return {name: path.read_bytes() for name, path in names.items() if not name.startswith("home/cache/")}


def rows(count: int) -> Iterator[Mapping[str, str]]:
    for number in range(count):
        yield {
            "prompt": f"What does code {number} mean?",
            "completion": f"Code {number} means that part {number * 7 % 13} needs {number + 3} drops of oil.",
        }


def wait(happened: Callable[[], Any], process: subprocess.Popen[str], pause: float = 0.02) -> Any:
    """The first true answer of `happened`; fails where the process ends before, or nothing comes."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        ended = process.poll() is not None
        with suppress(FileNotFoundError):  # a folder that was listed got its final name before it was read
            if found := happened():
                return found
        if ended:
            pytest.fail(f"the process ended with {process.returncode}: {process.stderr and process.stderr.read()}")
        time.sleep(pause)
    pytest.fail("nothing happened")


def ready(folder: Path, count: int = 40, **sections: Any) -> Ft:
    """A folder with rows, and a train.yml over the starter."""
    ft = Ft(folder)
    ft.rows(count)
    ft.config(**sections)
    return ft


def started(ft: Ft) -> subprocess.Popen[str]:
    """A training that has saved its first checkpoint."""
    process = ft.start("train", "train.yml")
    wait(ft.manifests, process)
    return process


def kill(process: subprocess.Popen[str]) -> None:
    """The whole group at once, unless it has ended."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@contextmanager
def still(process: subprocess.Popen[str]) -> Iterator[None]:
    """The process stands still meanwhile: what it does next does not depend on how long the test takes."""
    os.killpg(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGCONT)
