"""Each row of "What happens when …" names tests that there are; each of "What was measured" is in the evidence."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def table(title: str) -> list[list[str]]:
    """The cells of the table under a heading of the page."""
    page = (ROOT / "docs" / "guide" / "reliability.md").read_text("utf-8")
    under = page.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return [line.split("|")[1:-1] for line in under.splitlines() if line.startswith("|")][2:]


def test_each_row_has_its_tests() -> None:
    rows = table("The table")
    assert len(rows) > 15
    names = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    for happens, does, tests in rows:
        named = re.findall(r"`(?:\S*/)?(test_\w+\.py)`", tests)
        assert happens.strip() and does.strip() and named, happens
        assert set(named) <= names, happens


def test_what_was_measured_is_the_evidence() -> None:
    parts = json.loads((ROOT / "docs" / "evidence" / "faults.json").read_text())["parts"]
    rows = table("What was measured")
    assert [row[0].strip(" `") for row in rows] == [name for name in parts if name != "saving"]
    for name, tried, wrong, _ in rows:
        part = parts[name.strip(" `")]
        counted = part.get("landed", part.get("stopped", part.get("tried")))
        assert (int(tried.replace(",", "")), int(wrong)) == (counted, len(part["wrong"])), name
