"""The estimate held against the peaks of processes that train: models of several widths, each method."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BOUND = 0.2
"""On a quiet machine 15% held; how a heap is cut up depends on the moment, too."""
FIGURES: dict[str, dict[str, Any]] = json.loads((ROOT / "docs/evidence/memory.json").read_text("utf-8"))["cases"]
SMALL = [name for name in FIGURES if "deep" not in name]
"""The others take longer, and say the same."""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", SMALL)
def test_the_peak_is_as_estimated(name: str) -> None:
    pytest.importorskip("torch")
    if name.startswith(("qlora", "loftq")):
        pytest.importorskip("bitsandbytes")
    line = [sys.executable, str(ROOT / "benchmarks" / "memory.py"), "--cases", name]
    done = subprocess.run(line, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["cases"][name]
    print(f"{name}: {found['peak'] / 1e6:.0f} MB, estimated {found['estimate'] / 1e6:.0f} MB ({found['off']:+})")
    assert abs(found["off"]) <= BOUND
    assert abs(found["counted_for_libraries"] / found["libraries"] - 1) <= 0.35


@pytest.mark.parametrize("name", FIGURES)
def test_what_the_guide_quotes_is_within_15_percent(name: str) -> None:
    assert abs(FIGURES[name]["off"]) <= 0.15
