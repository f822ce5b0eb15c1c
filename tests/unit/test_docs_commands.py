"""The commands that the docs show exist, with these options."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from truetune.cli import group
from truetune.cli.common import Standard

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES += sorted((ROOT / "examples").rglob("*.md"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(ft [^`]+)`")


def commands(page: Path) -> list[str]:
    """Every `ft …` of a page: lines of its code blocks (not of its outputs), and the ones inside sentences."""
    text = page.read_text("utf-8")
    lines = [line for kind, body in FENCE.findall(text) if kind in ("", "sh", "bash") for line in body.splitlines()]
    shown = [line.split(" #")[0].strip() for line in lines if line.startswith("ft ")]
    return shown + [found.strip() for found in INLINE.findall(FENCE.sub("", text)) if "…" not in found]


CASES = [(page, command) for page in PAGES if page.name != "cli.md" for command in commands(page)]


def check(words: list[str], command: click.Command, context: click.Context) -> None:
    """Raises click's own errors for a verb or an option that is not there. Nothing is run."""
    if isinstance(command, click.Group) and words and not words[0].startswith("-"):
        if words[0] not in command.list_commands(context) and isinstance(command, Standard):
            words = [command.standard, *words]  # `ft receipt RUN` shows it
        found = command.get_command(context, words[0])
        assert found is not None, f"there is no verb {words[0]}"
        check(words[1:], found, click.Context(found, parent=context, info_name=words[0]))
        return
    options = {name for param in command.get_params(context) for name in (*param.opts, *param.secondary_opts)}
    for word in words:
        if word.startswith("-") and word != "-" and not re.fullmatch(r"-\d+", word):
            assert word.split("=")[0] in options, f"{command.name} has no option {word}"


@pytest.mark.parametrize(("page", "command"), CASES, ids=lambda value: getattr(value, "name", value))
def test_the_command_exists(page: Path, command: str) -> None:
    words = shlex.split(command)[1:]
    words = words[: words.index("|")] if "|" in words else words
    if not words or words[0].startswith("-"):
        return
    check(words, group, click.Context(group, info_name="ft"))


def test_there_are_commands_to_check() -> None:
    assert len(CASES) > 40
