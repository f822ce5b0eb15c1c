"""The elements of a JSON array, cut out without parsing: a bad one is named by its line, the rest goes on."""

from __future__ import annotations

import re
from collections.abc import Iterator

from truetune.data.rows import RowError

TOKEN = re.compile(rb'"[^"\\\n]*+(?:\\.[^"\\\n]*+)*+"|["\[\]{},]')
"""Strings as a whole (they can't hold a line break), and the characters of the structure."""


def split(raw: bytes, start: int, enclosed: bool = False) -> Iterator[tuple[int, bytes | RowError]]:
    """(line, bytes of the element) for the array that opens at `start`; a break ends the iteration with a RowError
    `data.broken_file`, because nobody knows how many rows follow it.

    `enclosed`: the array is a part of something that is known to be sound, so text may follow it.
    """
    scan = _Scan(raw, start)
    depth = 0
    for match in TOKEN.finditer(raw, start):
        token = match[0]
        if token == b'"':
            yield scan.broken("a text is not closed")
            return
        if token in (b"[", b"{"):
            depth += 1
        elif token in (b"]", b"}"):
            depth -= 1
        if depth == 0 or (depth == 1 and token == b","):
            found = scan.cut(match.start(), match.end())
            if found[1] or depth or scan.count > 1:
                yield found if found[1] else (found[0], RowError("json.syntax", "an element of the array is missing"))
        if depth == 0:
            yield from () if enclosed else scan.close(match, token)
            return
    yield scan.broken("the array is not closed")


class _Scan:
    """Where the current element began, and its line."""

    def __init__(self, raw: bytes, start: int) -> None:
        self.raw, self.at, self.count = raw, start + 1, 0
        self.line, self.counted = 1, 0

    def cut(self, stop: int, after: int) -> tuple[int, bytes]:
        """The element that ends before `stop`; the next one begins at `after`."""
        part = self.raw[self.at : stop]
        body = part.strip()
        begin = self.at + (len(part) - len(part.lstrip()) if body else 0)
        self.at, self.count = after, self.count + 1
        return self._line(begin), body

    def close(self, match: re.Match[bytes], token: bytes) -> Iterator[tuple[int, RowError]]:
        """What is wrong with the end of the array, if anything."""
        rest = self.raw[match.end() :]
        if token == b"}":
            yield self._line(match.start()), RowError("data.broken_file", "the array is closed by `}`")
        elif rest.strip():
            line = self._line(len(self.raw) - len(rest.lstrip()))
            yield line, RowError("data.broken_file", "text follows the end of the array")

    def broken(self, reason: str) -> tuple[int, RowError]:
        part = self.raw[self.at :]
        line = self._line(self.at + len(part) - len(part.lstrip()))
        return line, RowError("data.broken_file", f"element {self.count + 1} of the array breaks it: {reason}")

    def _line(self, place: int) -> int:
        self.line += self.raw.count(b"\n", self.counted, place)
        self.counted = place
        return self.line
