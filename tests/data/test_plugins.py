"""Shapes that other packages bring, from a package that is really installed: found late, guarded, refused if unfit."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from truetune.data import formats
from truetune.data.rows import Conversation, RowError, Turn
from truetune.data.shapes import plugins
from truetune.errors import InputError

CODE = """
from truetune.data.rows import Conversation, Turn
from truetune.data.shapes import Shape

def read(value):
    said = value["ticket"]
    return Conversation((Turn("user", said["asks"]), Turn("assistant", said["gets"])))

shape = Shape("ticket", ("ticket",), read)
hurried = Shape("hurried", ("hurry",), read, fits=lambda value: value["hurry"]["yes"])
double = Shape("alpaca", ("x",), read)
bare = Shape("bare", (), read)
odd = Shape("odd", ("x",), read, kind="poem")
"""
ROW = {"ticket": {"asks": "q", "gets": "a"}}
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a package whose entry points are as given, and forgets it afterwards."""

    def installed(*points: str, code: str = CODE) -> None:
        folder = tmp_path / "site"
        (folder / "tickets-1.0.dist-info").mkdir(parents=True)
        (folder / "tickets_format.py").write_text(code)
        (folder / "tickets-1.0.dist-info" / "METADATA").write_text("Name: tickets\nVersion: 1.0\n")
        entries = "\n".join(["[truetune.formats]", *points, ""])
        (folder / "tickets-1.0.dist-info" / "entry_points.txt").write_text(entries)
        monkeypatch.syspath_prepend(str(folder))
        plugins.shapes.cache_clear()

    yield installed
    sys.modules.pop("tickets_format", None)
    plugins.shapes.cache_clear()


def test_a_shape_of_another_package(install: Install) -> None:
    install("ticket = tickets_format:shape")
    for form in (formats.named("ticket"), formats.detect([ROW])):
        assert form.read(ROW) == Conversation((Turn("user", "q"), Turn("assistant", "a")))
    with pytest.raises(InputError) as caught:
        formats.named("nonsense")
    assert "ticket (ticket)" in caught.value.hint


def test_it_is_loaded_when_nothing_of_ours_fits(install: Install) -> None:
    install("ticket = tickets_format:shape", code="raise SystemError('loaded')")
    assert formats.detect([{"text": "t"}]).shape.name == "text"
    assert formats.named("messages").shape.name == "messages"
    with pytest.raises(InputError, match="SystemError: loaded"):
        formats.detect([ROW])


def test_an_error_in_it_costs_one_row(install: Install) -> None:
    install("ticket = tickets_format:shape")
    form = formats.detect([ROW])
    for value, code in (({"ticket": 7}, "data.format_failed"), ({"ticket": {"asks": "q", "gets": ""}}, "data.empty")):
        with pytest.raises(RowError) as caught:
            form.read(value)
        assert caught.value.code == code


def test_an_error_in_its_look_at_a_row_is_a_no(install: Install) -> None:
    install("hurried = tickets_format:hurried")
    with pytest.raises(InputError) as caught:
        formats.detect([{"hurry": 7}])
    assert caught.value.code == "data.unknown_format"
    assert formats.detect([{"hurry": {"yes": 1}}]).shape.name == "hurried"


@pytest.mark.parametrize(
    "points",
    [
        ["x = tickets_format:read"],
        ["x = tickets_format:gone"],
        ["x = gone_module:shape"],
        ["x = tickets_format:double"],
        ["x = tickets_format:bare"],
        ["x = tickets_format:odd"],
        ["x = tickets_format:shape", "y = tickets_format:shape"],
        ["x = tickets format"],
    ],
)
def test_what_is_no_shape_is_refused_by_name(install: Install, points: list[str]) -> None:
    install(*points)
    with pytest.raises(InputError) as caught:
        formats.named("x")
    assert caught.value.code == "data.format_package" and "'" in caught.value.message
    assert caught.value.where in ("tickets", "tickets_format:shape") and caught.value.hint


def test_the_example_of_the_docs(install: Install) -> None:
    docs = (Path(__file__).parents[2] / "docs" / "extending.md").read_text("utf-8")
    code = docs.partition("```python\n")[2].partition("```")[0]
    install(docs.partition('"truetune.formats"]\n')[2].partition("\n")[0].replace('"', ""), code=code)
    assert formats.detect([ROW]).read(ROW) == Conversation((Turn("user", "q"), Turn("assistant", "a")))
    with pytest.raises(RowError, match="an object with"):
        formats.named("ticket").read({"ticket": 7})
