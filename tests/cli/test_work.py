"""What is said while rows are prepared."""

from __future__ import annotations

import pytest

from truetune.cli import work
from truetune.cli.common import Output
from truetune.cli.work import Work


def test_without_a_terminal_short_work_is_not_told(capsys: pytest.CaptureFixture[str]) -> None:
    telling = Work(Output({}))
    for done in range(1, 4):
        telling("preparing rows", done, 3, ends=False)
    assert capsys.readouterr().err == ""


def test_long_work_says_how_far_it_is(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "QUIET_SECONDS", 0.0)
    telling = Work(Output({}))
    telling("reading rows", 256, None)
    telling("preparing rows", 256, 1024)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "reading rows 256" and second.startswith("preparing rows 256/1024")


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    telling = Work(Output({}, quiet=True))
    telling("tuned: loss", 3, 3)
    telling.stop()
    assert capsys.readouterr().err == ""
