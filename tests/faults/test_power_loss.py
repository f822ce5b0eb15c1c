"""A power cut at any moment of a run: what was reported as saved is there, and the resumed run is the straight one."""

from __future__ import annotations

from pathlib import Path

import power
from recorded import after_a_cut


def test_disks_after_a_cut(tmp_path: Path) -> None:
    """About 500 of them; every fiftieth is trained to the end."""
    (tmp_path / "rec").mkdir()
    recording = power.record(tmp_path / "rec")
    count, found = power.survey(recording, tmp_path / "room", each=2, whole=50)
    assert count > 400
    assert found == []


def test_without_a_cut_the_recording_is_the_disk(tmp_path: Path) -> None:
    (tmp_path / "rec").mkdir()
    recording = power.record(tmp_path / "rec")
    tree = after_a_cut(recording.entries, len(recording.entries), None)
    root = tmp_path / "rec"
    real = {str(path.relative_to(root)): path.read_bytes() if path.is_file() else None for path in root.rglob("*")}
    assert tree == real
