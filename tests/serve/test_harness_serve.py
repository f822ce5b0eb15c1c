"""EleutherAI's harness itself against `ft serve`, a few rows of what `benchmarks/harness.py` asks by the hundred."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
pytest.importorskip("lm_eval", reason='not installed: pip install "lm_eval[api]" (not in dev: half a minute)')
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "harness.py"


def test_its_figures_are_those_of_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    script = runpy.run_path(str(SCRIPT))
    found = script["compare"](tmp_path, 4)
    assert script["wrong"](found) == []
    assert {name: each["from hf"]["batches of 4"]["requests"] for name, each in found.items()} == {
        "starter": 23,
        "support": 23,
    }
    figures = [each["figures"]["hf"]["pages byte_perplexity"] for each in found.values()]
    assert figures[0] != figures[1]
    found["starter"]["figures"]["batches of 4"]["pages byte_perplexity"] *= 1.001
    assert len(script["wrong"](found)) == 1
