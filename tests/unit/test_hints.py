"""Every error and finding that is made in the sources says what to do."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

from truetune import errors

PACKAGE = Path(__file__).parents[2] / "truetune"
KINDS = {name for name, kind in vars(errors).items() if inspect.isclass(kind)} - {"ConfigErrors"}
POSITION = 3
"""Of the hint in `Finding(code, message, where, hint)`."""


def silent(source: str) -> Iterator[int]:
    """Lines of errors without a hint."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in KINDS:
            named = any(word.arg in ("hint", None) for word in node.keywords)
            if not named and len(node.args) <= POSITION:
                yield node.lineno


def test_it_finds_what_it_looks_for() -> None:
    assert list(silent('InputError("gone", code="a.b")')) == [1]
    assert not list(silent('InputError("gone", code="a.b", hint="look")'))
    assert not list(silent('Finding("a.b", "gone", "here", "look")'))


def test_every_error_has_a_hint() -> None:
    found = {
        f"{path.relative_to(PACKAGE)}:{line}"
        for path in PACKAGE.rglob("*.py")
        if path.name != "errors.py"
        for line in silent(path.read_text("utf-8"))
    }
    assert not found
