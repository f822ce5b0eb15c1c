"""The near-duplicate pass over many rows finds all copies; `benchmarks/near.py` has the same for a million."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_many_rows_take_little_memory() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "near.py"), "--rows", "40000"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["peak_bytes"] < 3 * 2**27


def test_a_million_rows_took_less_than_a_gigabyte() -> None:
    figures = json.loads((ROOT / "docs" / "evidence" / "near.json").read_text())
    assert figures["rows"] == 1_000_000 and figures["peak_bytes"] < 2**30 and figures["found"] == figures["planted"]
