"""Hostile repositories of a hub through `models_pull` and `models_info`: refused with a reason or without effect, no
code of theirs runs, and what is refused is not left in the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import small_hub
from hostile import CONFIGS, TEMPLATES, TOKENIZERS, WEIGHTS, Case, copy
from small_hub import Hub
from watched import seen, watching

import truetune as ft
from truetune.errors import TrueTuneError
from truetune.models import hub as hubs
from truetune.models import library

CASES = [*CONFIGS, *WEIGHTS, *TEMPLATES, *TOKENIZERS]
NAME = "owner/evil"
LATER = {"layers-without-end": None, "sizes-beyond-any": "model.bad_config"}
"""Facts that nothing asks for before a training, or before `models_info`: what that says."""

LOOPBACK = ("socket.connect", "socket.getaddrinfo")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with small_hub.running({}) as found:
        small_hub.here(found, tmp_path, monkeypatch)
        seen.clear()
        yield found
    watching.clear()
    assert not (tmp_path / "canary").exists() and not list(tmp_path.rglob("canary"))
    assert not [event for event in seen if not (event.startswith(LOOPBACK) and "127.0.0.1" in event)]


def outcome(work: Callable[[], Any]) -> str | None:
    try:
        work()
    except TrueTuneError as error:
        assert error.message.isprintable() and error.hint, error.message
        return error.code
    return None


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_hostile_repository(case: Case, hub: Hub, tmp_path: Path) -> None:
    folder = copy(tmp_path / "model")
    case.change(folder, tmp_path / "canary")
    hub.repos[NAME] = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    watching.append(tmp_path / "cache")
    expected = None if case.name in LATER else case.code
    assert outcome(lambda: ft.models_pull(NAME)) == expected
    if expected:
        assert hubs.cached(NAME) is None and not list((tmp_path / "cache").rglob("snapshots/*/*"))
    kept = {path.name for path in (tmp_path / "cache").rglob("snapshots/*/*")}
    assert not [name for name in kept if name.endswith((".py", ".bin", ".pt", ".pkl", ".gguf", ".npy"))]
    if case in CONFIGS or not expected:
        assert outcome(lambda: ft.models_info(NAME)) == LATER.get(case.name, expected)
    library.remove(NAME)
    assert outcome(lambda: ft.models_info(str(folder))) == LATER.get(case.name, case.code)


def test_there_are_enough() -> None:
    assert len([case for case in CASES if case.code]) >= 60
