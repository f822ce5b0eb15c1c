"""Kills, EIO, ENOSPC and EINTR at calls of the kernel, injected by strace; `make faults` tries every call."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import syscalls


def test_faults_of_the_kernel_in_a_save() -> None:
    if text := syscalls.missing():
        pytest.skip(text)
    line = [sys.executable, str(Path(syscalls.__file__)), "small", "16"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert (found["wrong"], found["tried"]) == ([], 16)
    assert {"fsync", "write"} <= found["calls"].keys() and len(found["faults"]) > 1
