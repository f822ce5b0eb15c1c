"""The elements of a JSON array, cut out without parsing: a bad one is named by its line, the rest goes on.

The stream is read in blocks; no more is held than a block and the element that is being read (of one that is larger
than a row may be, nothing), so the size of an array does not matter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import IO

from truetune.data.reading import values
from truetune.data.reading.values import SPACE
from truetune.data.rows import Place, RowError

TOKEN = re.compile(rb'"[^"\\\n]*+(?:\\.[^"\\\n]*+)*+"|["\[\]{},]')
"""Strings as a whole (they can't hold a line break), and the characters of the structure."""
INSIDE = re.compile(rb'[^"\\\n]*+(?:\\.[^"\\\n]*+)*+')
"""What may stand in a string."""
OPENING, CLOSING = frozenset((b"[", b"{")), frozenset((b"]", b"}"))
BLOCK = 2**20

Part = tuple[int, bytes | RowError]
"""Line of an element (a Place where that does not tell it from others), and its bytes or why there is none."""


def split(stream: IO[bytes], line: int = 1, enclosed: bool = False) -> Iterator[Part]:
    """The elements of the array that the stream opens with; a break ends the iteration with a RowError
    `data.broken_file`, because nobody knows how many rows follow it.

    `line` is where the stream begins. `enclosed`: the array is a part of something that is known to be sound, so text
    may follow it.
    """
    scan = _Scan(stream, line)
    for depth, start, end, token in scan.tokens():
        if token == b'"':
            yield scan.broken("a text is not closed")
            return
        if token in OPENING:
            scan.at = end
            continue
        found = scan.placed(start, end)
        if found[1] or depth or scan.count > 1:
            yield found if found[1] else (found[0], RowError("json.syntax", "an element of the array is missing"))
        if depth == 0:
            yield from () if enclosed else scan.close(end, token)
            return
    yield scan.broken("the array is not closed")


def objects(stream: IO[bytes]) -> Iterator[Part]:
    """Objects that follow one another, each over any number of lines. A break ends the iteration as in `split`."""
    scan = _Scan(stream, 1)
    depth = 0
    for depth, _, end, token in scan.tokens():
        if token == b'"':
            yield scan.broken("a text is not closed", "object")
            return
        if depth == 0 and token in CLOSING:
            yield scan.cut(end, end)
        if depth < 0:
            break
    if depth or scan.rest():
        yield scan.broken("it does not open" if depth < 0 else "it is not closed", "object")


class _Scan:
    """A window on the stream: where the current element began in it, and its line."""

    def __init__(self, stream: IO[bytes], line: int) -> None:
        self.stream, self.raw, self.ended = stream, b"", False
        self.at, self.count = 0, 0
        self.line, self.counted = line, 0
        self.end = 0
        """The line on which the element before ended."""
        self.lost: int | None = None
        """The line of an element that is too large to be kept."""

    def tokens(self) -> Iterator[tuple[int, int, int, bytes]]:
        """The outer structure: depth behind it, start, end (in `raw`, until the next one is asked for), character.

        That is what opens the first level, the commas in it, and what closes it; a quote is one that is never closed.
        """
        place = depth = 0
        while True:
            opened = -1
            for match in TOKEN.finditer(self.raw, place):
                token = match[0]
                if token == b'"':
                    opened = match.start()
                    break
                place = match.end()
                if token in OPENING:
                    depth += 1
                    if depth == 1:
                        yield depth, match.start(), place, token
                elif token in CLOSING:
                    depth -= 1
                    if depth <= 0:
                        yield depth, match.start(), place, token
                elif depth <= 1 and token == b",":
                    yield depth, match.start(), place, token
            stop = INSIDE.match(self.raw, opened + 1).end() if opened >= 0 else len(self.raw)  # type: ignore[union-attr]
            torn = opened >= 0 and self.raw[stop:] not in (b"", b"\\")
            if torn or (self.ended and opened >= 0):
                yield depth, opened, opened + 1, b'"'
                return
            if self.ended:
                return
            place = self._refill(opened if opened >= 0 else stop, stop, opened >= 0)

    def _refill(self, place: int, stop: int, inside: bool) -> int:
        """Read on, and let go of what is done with. Returns where `place` is now."""
        head = b""
        if len(self.raw) - self.at <= values.LINE:
            gone = self.at
        else:
            self.lost = self._begin(self.raw) if self.lost is None else self.lost
            gone, head = stop, b'"' if inside else b""
            place = gone
        self._line(gone)
        block = self.stream.read(max(BLOCK, len(self.raw) - gone))
        self.ended = not block
        self.raw = head + self.raw[gone:] + block
        self.at, self.counted = 0, 0
        return place - gone

    def cut(self, stop: int, after: int) -> Part:
        """The element that ends before `stop`; the next one begins at `after`."""
        part: bytes | RowError = self.raw[self.at : stop].strip(SPACE)
        line = self._begin(self.raw[self.at : stop])
        if self.lost is not None:
            line, part, self.lost = self.lost, values.too_big(), None
        self.at, self.count = after, self.count + 1
        return line, part

    def placed(self, stop: int, after: int) -> Part:
        """As `cut`, the line with the element's number where it is shared with the element before or behind it."""
        before = self.end
        line, part = self.cut(stop, after)
        self.end = line + part.count(b"\n") if isinstance(part, bytes) else 0
        behind = self.raw[after : after + 64].lstrip(b" \t\r")[:1] if self.raw[stop:after] == b"," else b""
        shared = line == before or behind not in (b"", b"\n")
        return Place(line, self.count) if shared else line, part

    def close(self, end: int, token: bytes) -> Iterator[tuple[int, RowError]]:
        """What is wrong with the end of the array, if anything."""
        if token == b"}":
            yield self._line(end), RowError("data.broken_file", "the array is closed by `}`")
            return
        self.at = end
        if self.rest():
            yield self._begin(self.raw), RowError("data.broken_file", "text follows the end of the array")

    def rest(self) -> bool:
        """Whether anything but white space follows."""
        while not self.raw[self.at :].strip(SPACE) and not self.ended:
            self.at = len(self.raw)
            self._refill(self.at, self.at, False)
        return bool(self.raw[self.at :].strip(SPACE))

    def broken(self, reason: str, what: str = "element") -> tuple[int, RowError]:
        line = self.lost if self.lost is not None else self._begin(self.raw)
        whole = " of the array" if what == "element" else ""
        return line, RowError("data.broken_file", f"{what} {self.count + 1}{whole} breaks it: {reason}")

    def _begin(self, part: bytes) -> int:
        """The line of the first character of the current element, which `part` holds the start of."""
        if part is self.raw:
            part = part[self.at :]
        body = part.lstrip(SPACE)
        return self._line(self.at + (len(part) - len(body) if body else 0))

    def _line(self, place: int) -> int:
        self.line += self.raw.count(b"\n", self.counted, place)
        self.counted = place
        return self.line
