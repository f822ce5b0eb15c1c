"""A document per file: Markdown without its front matter, and the main text of an HTML page."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

from truetune.data.reading import library, values
from truetune.data.reading.file import File
from truetune.data.reading.values import Item, bad_text
from truetune.data.rows import RAW_LIMIT, RowError

FRONT = re.compile(
    r"\A(?:---[ \t]*\n(?=[ \t#\n]*[\w\"'-]+[^\n]*:)(?:(?!---|\.\.\.)[^\n]*\n)*(?:---|\.\.\.)"
    r"|\+\+\+[ \t]*\n(?:(?!\+\+\+)[^\n]*\n)*\+\+\+)[ \t]*(?:\n|\Z)"
)
"""Settings at the start of a page, in YAML or TOML. A rule drawn above a text is none: it has no `key:` below it."""


def markdown(file: File) -> Iterator[Item]:
    """The text as it is written; line ends become `\\n`."""
    for text in _whole(file):
        if isinstance(text, RowError):
            yield 1, text, ""
            continue
        front = FRONT.match(text)
        line = front[0].count("\n") + 1 if front else 1
        if front:
            file.note(1, "data.front_matter", f"the front matter of {line - 1} lines is left out")
        body = text[front.end() :].strip() if front else text.strip()
        yield line, {"text": body}, body[:RAW_LIMIT]


def html(file: File) -> Iterator[Item]:
    """What an article says, without what stands around it. Raises InputError (`data.not_installed`)."""
    extract = library("trafilatura", file.path).extract
    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # what it would print is said by the row
    for text in _whole(file):
        if isinstance(text, RowError):
            yield 1, text, ""
            continue
        body = extract(text, include_comments=False, favor_recall=True)
        if body:
            yield 1, {"text": body}, body[:RAW_LIMIT]
        else:
            yield 1, RowError("html.no_text", "no main text is found on the page"), text[:RAW_LIMIT]


def _whole(file: File) -> Iterator[str | RowError]:
    """The text of the file, or why it is none; nothing if it is blank."""
    with file.utf8() as stream:
        raw = stream.read(values.LINE + 1)
    if len(raw) > values.LINE:
        yield values.too_big()
    elif raw.strip():
        text = raw.decode("utf-8", "surrogateescape").replace("\r\n", "\n")
        yield bad_text([text]) or text
