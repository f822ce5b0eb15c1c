"""The faces in a browser: no text of a model, a dataset or a person becomes markup or code, by reading the sources.

Templates escape by themselves; scripts write text, never HTML. Each pattern has snippets that it must catch.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "truetune"
VENDORED = "vendor"
"""Third-party scripts, which come from a registry by a lock file."""

SCRIPT = re.compile(
    r"\.(inner|outer)HTML\b|insertAdjacentHTML|document\.write|\beval\(|new Function\(|setTimeout\(\s*['\"`]"
    r"|createContextualFragment|srcdoc\s*=|javascript:|\bimport\(\s*[^'\"]"
)
TEMPLATE = re.compile(
    r"\|\s*safe\b|\bMarkup\(|autoescape\s+false|<script(?![^>]*\bsrc=)[^>]*>|\son[a-z]+\s*=\s*['\"]", re.I
)
RULES = {".js": SCRIPT, ".mjs": SCRIPT, ".html": TEMPLATE, ".css": re.compile(r"@import|url\(\s*['\"]?(https?:)?//")}


def violations(name: str, text: str) -> list[str]:
    rule = RULES.get(Path(name).suffix)
    lines = enumerate(text.splitlines(), 1) if rule else ()
    return [f"{name}:{number}: {line.strip()[:80]}" for number, line in lines if rule and rule.search(line)]


def test_the_tree_keeps_the_rule() -> None:
    files = [path for path in sorted(PACKAGE.rglob("*")) if path.suffix in RULES and VENDORED not in path.parts]
    assert [
        line for path in files for line in violations(str(path.relative_to(PACKAGE)), path.read_text("utf-8"))
    ] == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.js", "box.innerHTML = name"),
        ("a.js", "box.outerHTML = name"),
        ("a.js", "box.insertAdjacentHTML('beforeend', name)"),
        ("a.js", "document.write(name)"),
        ("a.js", "eval(text)"),
        ("a.js", "new Function(text)"),
        ("a.js", "setTimeout('run()', 1)"),
        ("a.mjs", "await import(name)"),
        ("a.html", "<p>{{ name | safe }}</p>"),
        ("a.html", "{% autoescape false %}"),
        ("a.html", "<script>run()</script>"),
        ("a.html", "<p onclick='run()'>"),
        ("a.css", "@import 'x.css'"),
        ("a.css", "a { background: url(https://host/x.png) }"),
    ],
)
def test_the_rule_catches(name: str, text: str) -> None:
    assert violations(name, text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.js", "box.textContent = name; box.replaceChildren(); import('./x.js')"),
        ("a.html", "<script src='/static/a.js' defer></script><p>{{ name }}</p><p data-once='1'>"),
        ("a.css", "a { background: url(/static/x.svg) }"),
        ("a.py", "x.innerHTML"),
    ],
)
def test_the_rule_lets_pass(name: str, text: str) -> None:
    assert violations(name, text) == []
