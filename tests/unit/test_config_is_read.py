"""A key of train.yml that nothing reads is a bug: each is looked for in the sources outside truetune/config."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from truetune.config import fields

PACKAGE = Path(__file__).parents[2] / "truetune"
SOURCES = "\n".join(
    path.read_text("utf-8") for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] != "config"
)
ONE_VALUE = {"version", "resources.workers"}
"""Keys that take a single value in this version; another one is refused."""
ELSEWHERE = {
    "profile": "config/load.py layers it",
    "generation.top_p": "generation_config.json takes the whole section",
}


@pytest.mark.parametrize("key", [key for key, _ in fields() if key not in ONE_VALUE | ELSEWHERE.keys()])
def test_it_is_read(key):
    name = key.rpartition(".")[2]
    names = {"path": "paths?", "dir": "dir"}.get(name, re.escape(name))
    assert re.search(rf"\.{names}\b|\[\"{names}\"\]", SOURCES), f"nothing reads {key}"
