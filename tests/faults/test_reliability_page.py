"""Each row of "What happens when …" names tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_each_row_has_its_tests() -> None:
    page = (ROOT / "docs" / "guide" / "reliability.md").read_text("utf-8")
    rows = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("|")][2:]
    assert len(rows) > 15
    names = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    for happens, does, tests in rows:
        named = re.findall(r"`(?:\S*/)?(test_\w+\.py)`", tests)
        assert happens.strip() and does.strip() and named, happens
        assert set(named) <= names, happens
