"""Every test of a hostile folder is watched, and leaves no canary behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from watched import seen, watching


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Watches the test, then: nothing ran, nothing was opened that must not be."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TRUETUNE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "canary"
    seen.clear()
    yield path
    watching.clear()
    assert not path.exists() and not list(tmp_path.rglob("canary"))
    assert not seen
