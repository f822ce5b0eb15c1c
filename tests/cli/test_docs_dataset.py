"""What docs/dataset.md shows is what the commands print."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from truetune.cli import run
from truetune.data.shapes.table import SHAPES

ROOT = Path(__file__).parents[2]


def block(after: str) -> list[str]:
    """The lines of the output that the page shows below a command."""
    page = (ROOT / "docs" / "dataset.md").read_text(encoding="utf-8")
    return page.partition(f"```\n{after}\n```\n\n```text\n")[2].partition("```")[0].splitlines()


@pytest.mark.parametrize(
    "command",
    [
        "ft dataset check examples/messy/questions.csv",
        "ft dataset prepare examples/messy/questions.csv --out library.jsonl --split 0.2 --clean --report",
    ],
)
def test_the_page_shows_what_is_printed(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ROOT / "examples" / "messy", tmp_path / "examples" / "messy")
    monkeypatch.chdir(tmp_path)
    run(command.split()[1:])
    printed = {line.rstrip() for line in capsys.readouterr().out.splitlines()}
    shown = [line for line in block(command) if line != "…"]
    assert len(shown) > 8 and [line for line in shown if line not in printed] == []


def test_the_guide_names_every_format() -> None:
    page = (ROOT / "docs" / "guide" / "your-data.md").read_text(encoding="utf-8")
    assert [name for name in SHAPES if f"`{name}`" not in page] == []
