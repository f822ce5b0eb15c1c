"""Markdown and HTML: a document per file, with what a reader of it would call its text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from truetune.data import readers
from truetune.data.rows import RowError

PAGE = """<!doctype html><html><head><title>Bread</title><style>p {{ color: red }}</style></head><body>
<nav><a href="/">Home</a> <a href="/about">About us</a></nav>
<article><h1>How to bake</h1><p>Take flour &amp; water {mark}. Mix them well and wait for an hour before you go on.</p>
<p>Then bake the bread at 220 degrees for half an hour and let it cool down.</p></article>
<script>alert("no text")</script><footer>Copyright. All rights reserved.</footer></body></html>"""


def rows(path: Path, content: str | bytes) -> tuple[list[tuple[int, Any]], list[str]]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    notes: list[str] = []
    found = readers.read(path, lambda line, code, message: notes.append(code))
    return [(line, value.code if isinstance(value, RowError) else value["text"]) for line, value, _ in found], notes


@pytest.mark.parametrize(
    ("text", "expected", "noted"),
    [
        ("# Title\r\n\r\nText\r\n", (1, "# Title\n\nText"), []),
        ("---\ntitle: T\ntags: [a]\n---\n\n# Title\n", (5, "# Title"), ["data.front_matter"]),
        ('+++\ntitle = "T"\n+++\nText', (4, "Text"), ["data.front_matter"]),
        ("---\nA rule above and one below.\n---\nText", (1, "---\nA rule above and one below.\n---\nText"), []),
        ("---\ntitle: never closed\n", (1, "---\ntitle: never closed"), []),
        ("---\ntitle: T\n---\n", (4, ""), ["data.front_matter"]),
    ],
)
def test_markdown(tmp_path: Path, text: str, expected: tuple[int, str], noted: list[str]) -> None:
    assert rows(tmp_path / "a.md", text) == ([expected], noted)


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"K\xff\xfese", "data.encoding"), (b"a\0b", "data.nul"), (b"a" * 2**25 + b"b", "data.too_big")],
)
def test_pages_that_are_refused(tmp_path: Path, content: bytes, code: str) -> None:
    assert rows(tmp_path / "a.md", content) == ([(1, code)], [])


def test_a_blank_page_is_no_row(tmp_path: Path) -> None:
    assert rows(tmp_path / "a.md", " \n\n") == ([], [])


@pytest.mark.parametrize(
    ("encoding", "mark"), [("utf-8", "– süß 🙂"), ("windows-1252", "– süß"), ("utf-16", "– süß 🙂")]
)
def test_the_main_text_of_a_page(tmp_path: Path, encoding: str, mark: str) -> None:
    pytest.importorskip("trafilatura", reason="trafilatura, the extra `html`, is not installed")
    found, notes = rows(tmp_path / "a.html", PAGE.format(mark=mark).encode(encoding))
    ((line, text),) = found
    assert line == 1 and f"Take flour & water {mark}." in text and "220 degrees" in text
    assert not any(word in text for word in ("About us", "alert", "Copyright", "color", "<"))
    assert notes == ([] if encoding == "utf-8" else ["data.recoded"])


@pytest.mark.parametrize("content", ["<html></html>", "<script>text</script>", "<", "<div>" * 3000])
def test_a_page_without_text_is_named(tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("trafilatura", reason="trafilatura, the extra `html`, is not installed")
    assert rows(tmp_path / "a.html", content) == ([(1, "html.no_text")], [])
    assert caplog.text == ""
