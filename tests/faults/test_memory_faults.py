"""Memory runs out at a random micro-batch of training or evaluation: same curve, same adapter, exact counts."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

import numpy as np
import short_memory
from short_memory import trained

from truetune.engines.torch import tiny

pytestmark = pytest.mark.slow


def test_at_thirty_points(tmp_path: Path) -> None:
    """Without dropout the adapter is the undisturbed one; with it the curve lies inside the spread of five seeds."""
    found = short_memory.hunt(30, tmp_path)
    assert found["wrong"] == [] and found["tried"] == 60
    assert 0 < found["farthest"] <= found["spread_of_seeds"]


def test_what_is_lost_in_a_replay_would_be_seen(tmp_path: Path) -> None:
    """The watch itself: a step that is left out, and a curve that is another one."""
    model = tiny.make(tmp_path / "model", "llama")
    calm, other = trained(tmp_path / "calm", model), trained(tmp_path / "other", model, dropout=0.5)
    assert short_memory.miscounted(calm, calm) == ["events []"]
    assert "losses" in short_memory.apart(other, calm) and "adapter" in short_memory.apart(other, calm)
    assert np.array_equal(calm.curve, trained(tmp_path / "again", model).curve)
