"""Real processes killed by SIGKILL, resumed and compared bit by bit; and stopped by SIGTERM. See forked.py, endings.py.

Sixty kills land in all runs of these tests, half of them in a save, besides those at the boundaries by name.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def told(program: str, *args: str) -> dict[str, Any]:
    line = [sys.executable, str(Path(__file__).with_name(program)), *args]
    env = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def killed(engine: str, count: int) -> None:
    found = told("forked.py", "kills", engine, str(count))
    assert (found["wrong"], found["landed"]) == ([], count)
    assert 2 * found["in_a_save"] >= count and len(found["by_phase"]) >= count // 4
    assert found["during_recovery"] > 0 or count < 24


def test_kills_of_a_small_run() -> None:
    killed("small", 24)


def test_a_small_run_is_killed_at_each_boundary() -> None:
    found = told("forked.py", "edges", "small", "1")
    assert found["wrong"] == [] and all(found["at"].values())


def test_stops_of_a_small_run() -> None:
    found = told("forked.py", "stops", "small", "5")
    assert (found["wrong"], found["stopped"]) == ([], 5)


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "count"), [("torch", 24), ("mlx", 12)])
def test_kills_of_training(engine: str, count: int) -> None:
    pytest.importorskip("torch")
    if engine == "mlx":
        pytest.importorskip("mlx_lm", reason="MLX is not installed")
    killed(engine, count)


@pytest.mark.slow
def test_training_is_killed_at_each_boundary() -> None:
    pytest.importorskip("torch")
    found = told("forked.py", "edges", "torch", "1")
    assert found["wrong"] == [] and all(found["at"].values())


@pytest.mark.slow
def test_kills_while_the_result_is_written() -> None:
    pytest.importorskip("torch")
    found = told("endings.py", "4")
    assert (found["wrong"], found["tried"]) == ([], 4)


@pytest.mark.slow
def test_stops_of_training() -> None:
    pytest.importorskip("torch")
    found = told("forked.py", "stops", "torch", "6")
    assert (found["wrong"], found["stopped"]) == ([], 6)
