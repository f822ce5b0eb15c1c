"""What a file of rows is: its size and its digest, which a verb takes once at most."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import truetune as ft
from truetune.data import sources
from truetune.errors import InputError

ROWS = [{"prompt": f"What is code {n}?", "completion": f"Code {n} is part {n * 7 % 13}."} for n in range(12)]
VERBS: dict[str, tuple[int, Callable[[Path], Any]]] = {
    "check": (1, lambda folder: ft.dataset_check("rows.jsonl", estimate=False, folder=folder)),
    "prepare": (1, lambda folder: ft.dataset_prepare("rows.jsonl", folder / "out.jsonl", folder=folder)),
    "show": (0, lambda folder: ft.dataset_show("rows.jsonl", folder=folder)),
}
"""How often each verb takes the digest, and the verb."""


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), "utf-8")
    return path


@pytest.mark.parametrize("verb", VERBS)
def test_the_digest_is_taken_once_at_most(rows: Path, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    taken, real = [], hashlib.file_digest

    def counted(stream: Any, kind: str) -> Any:
        taken.append(Path(stream.name).name)
        return real(stream, kind)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    times, run = VERBS[verb]
    run(rows.parent)
    assert taken.count(rows.name) == times


def test_size_and_digest_are_the_files(rows: Path) -> None:
    (found,) = sources.find([rows.name], rows.parent)
    assert (found.name, found.bytes) == (rows.name, rows.stat().st_size)
    assert found.sha256 == hashlib.sha256(rows.read_bytes()).hexdigest()


def test_the_digest_of_a_file_that_has_gone_is_a_clear_error(rows: Path) -> None:
    (found,) = sources.find([rows.name], rows.parent)
    rows.unlink()
    with pytest.raises(InputError) as caught:
        _ = found.sha256
    assert caught.value.finding.code == "data.unreadable"
