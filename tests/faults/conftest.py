"""These tests write and sync thousands of files of a few bytes: in memory, where there is such a place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from killing import in_memory


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """As pytest's own, gone after the test."""
    with in_memory() as place:
        yield Path(place)
