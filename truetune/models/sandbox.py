"""The room in which chat templates run: what they may use, and how much of it.

Templates come with models, so they are untrusted programs. Jinja's immutable sandbox keeps them from reaching out;
what it does not keep them from is going on for ever, or filling the memory by doubling a text. So every turn of a loop
and every call of a macro is counted, and texts and powers have a size at which they end: with a reason that can be
told. What this does not count (`'a'.center(10**9)`), the limits of the process end (`worker.py`).
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox
import jinja2.visitor

TURNS = 200_000
"""Turns of loops and calls of macros in one rendering: half a second. Real templates take a few per message."""
SIZE = 2**24
"""Characters of a text, or elements of a list, that a template may put together."""
POWER = 1024
"""Largest exponent."""


class Endless(Exception):
    """The template goes on for ever, or grows without bound."""


class Room(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Jinja's sandbox with bounds. One rendering at a time: `turns` is what is left of it."""

    intercepted_binops = frozenset({"+", "*", "**"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
        self.filters["tojson"] = _tojson
        self.globals["raise_exception"] = _refuse
        self.globals["strftime_now"] = _now
        self.turns = TURNS

    def template(self, source: str) -> jinja2.Template:
        """The compiled template. Raises jinja2.TemplateSyntaxError."""
        tree = _Count().visit(self.parse(source))
        found = self.from_string(tree.set_environment(self))
        found.globals = dict(found.globals)  # every rendering makes one of its chain of maps, a tenth of the time
        return found

    def turn(self) -> bool:
        """Called at every turn of a loop and at the start of every macro; always true, so that it can be a test."""
        self.turns -= 1
        if self.turns < 0:
            raise Endless(f"it takes more than {TURNS:,} turns of its loops")
        return True

    def concat(self, pieces: Iterable[str]) -> str:
        """What a template, a macro or a block has written, piece by piece."""
        kept, size = [], 0
        for piece in pieces:
            size += len(piece)
            _check_size(size)
            kept.append(piece)
        return "".join(kept)

    def joined(self, *parts: Any) -> str:
        """`a ~ b`"""
        texts = list(map(str, parts))
        _check_size(sum(map(len, texts)))
        return "".join(texts)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "+" and isinstance(left, str) and isinstance(right, str):  # most are
            _check_size(len(left) + len(right))
            return left + right
        if operator == "**" and isinstance(right, int) and abs(right) > POWER:
            raise Endless(f"it raises to a power above {POWER}")
        if operator == "+":
            _check_size(_length(left) + _length(right))
        if operator == "*":
            _check_size(max(_product(left, right), _product(right, left)))
        return super().call_binop(context, operator, left, right)


class _Count(jinja2.visitor.NodeTransformer):
    """Puts the counting into the template's tree. `EnvironmentAttribute` cannot be shadowed by a template's names."""

    def visit_For(self, node: jinja2.nodes.For) -> jinja2.nodes.For:
        self.generic_visit(node)
        if node.test is not None:
            node.test = jinja2.nodes.And(_call("turn"), node.test)
        node.body.insert(0, jinja2.nodes.ExprStmt(_call("turn")))
        return node

    def visit_Macro(self, node: jinja2.nodes.Macro) -> jinja2.nodes.Macro:
        self.generic_visit(node)
        node.body.insert(0, jinja2.nodes.ExprStmt(_call("turn")))
        return node

    def visit_Concat(self, node: jinja2.nodes.Concat) -> jinja2.nodes.Call:
        self.generic_visit(node)
        return _call("joined", node.nodes)


def _call(name: str, arguments: list[jinja2.nodes.Expr] | None = None) -> jinja2.nodes.Call:
    return jinja2.nodes.Call(jinja2.nodes.EnvironmentAttribute(name), arguments or [], [], None, None)


def _product(times: Any, value: Any) -> int:
    """Elements of `value`, repeated."""
    return _length(value) * times if isinstance(times, int) else 0


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple) else 0


def _check_size(size: int) -> None:
    if size > SIZE:
        raise Endless(f"it puts together more than {SIZE:,} characters")


class Generation(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}` marks the assistant's text; it renders as its body, in its own scope."""

    tags = {"generation"}  # noqa: RUF012 (the base class declares it so)

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without the HTML escapes of Jinja's own filter."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _now(format: str) -> str:
    return datetime.datetime.now().strftime(format)
