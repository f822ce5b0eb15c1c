"""Real processes killed by SIGKILL, resumed and compared bit by bit; and stopped by SIGTERM. See forked.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def told(what: str, engine: str, count: int) -> dict[str, Any]:
    line = [sys.executable, str(Path(__file__).with_name("forked.py")), what, engine, str(count)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def test_kills_of_a_small_run() -> None:
    found = told("kills", "small", 12)
    assert (found["wrong"], found["landed"]) == ([], 12)


def test_stops_of_a_small_run() -> None:
    found = told("stops", "small", 4)
    assert (found["wrong"], found["stopped"]) == ([], 4)


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "count"), [("torch", 24), ("mlx", 12)])
def test_kills_of_training(engine: str, count: int) -> None:
    pytest.importorskip("torch")
    if engine == "mlx":
        pytest.importorskip("mlx_lm", reason="MLX is not installed")
    found = told("kills", engine, count)
    assert (found["wrong"], found["landed"]) == ([], count)


@pytest.mark.slow
def test_stops_of_training() -> None:
    pytest.importorskip("torch")
    found = told("stops", "torch", 6)
    assert (found["wrong"], found["stopped"]) == ([], 6)
