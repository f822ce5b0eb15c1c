"""Every test of this folder gets a folder of its own to run `ft` in."""

from __future__ import annotations

from pathlib import Path

import pytest
from real_ft import Ft


@pytest.fixture
def ft(tmp_path: Path) -> Ft:
    return Ft(tmp_path)
