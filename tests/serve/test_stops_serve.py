"""SIGTERM under load, and requests that are far too large: a few of what `every_load.py` does for half an hour."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest
from giants import right, sent
from under_load import body, outcome, process, stopped

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("seed", [4, 6])
def test_nothing_that_was_taken_on_is_lost(tmp_path: Path, seed: int) -> None:
    """Without any grace, and with one that is too short for the longest answers."""
    found, wrong = stopped(tmp_path, seed)
    assert wrong == []
    assert found["ends"]["cut"]


def test_what_is_too_large_is_refused_and_not_kept(tmp_path: Path) -> None:
    with process(tmp_path, "starter") as server:
        found = sent(server, 32)
        assert [name for name, each in found.items() if not right(name, each["status"])] == []
        assert max(each["megabytes"] for each in found.values()) < 64
        assert outcome(server.url, body("starter", 1, max_tokens=4, ignore_eos=True)) == "whole"
        assert httpx2.get(f"{server.url}/health").json() == {"status": "ok"}
