"""A file of rows as one stream of UTF-8, whatever it is stored in. What is not UTF-8 is said, never guessed in silence.

A byte order mark decides; else UTF-8. A file that holds no UTF-8 beyond ASCII, but letters and signs of western
European languages as Windows-1252 (and so Latin-1) writes them, is read as that, and a note shows a word of it.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from truetune.data.reading import packed
from truetune.data.reading.notes import Note, ignore
from truetune.errors import InputError

SAMPLE = 4 * 2**20
"""Bytes at the start of a file that its encoding is told from."""
BLOCK = 2**20
SMALL = 64
"""Bytes below which nothing is said of how many of them are control characters."""

MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""In the order in which they are tried: the mark of UTF-32 begins with that of UTF-16."""
BINARY = {
    b"\x1f\x8b": "gzip data: name it with .gz at the end",
    b"\x28\xb5\x2f\xfd": "zstd data: name it with .zst at the end",
    b"PK\x03\x04": "a zip archive (or a document of an office program): save the rows as CSV or JSON",
    b"PAR1": "a Parquet file: name it with .parquet at the end",
    b"ARROW1": "an Arrow file: name it with .arrow at the end",
    b"%PDF-": "a PDF: save its text as a .txt file",
    b"\x89PNG": "an image",
    b"SQLite format 3\0": "a database: export a table as CSV",
}
CONTROL = bytes(code for code in range(32) if code not in b"\t\n\r\f\v\b\x1b")
WESTERN = (
    "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜÝßàáâãäåæçèéêëìíîïñòóôõöøùúûüý€‚„…‘’“”•–—™œŒšŠžŽ¡£§©«®°±´·»½¿×\N{NO-BREAK SPACE}"
).encode("windows-1252")
"""What western European texts hold beyond ASCII."""


@dataclass(frozen=True)
class File:
    """A file to read rows from."""

    path: Path
    note: Note = ignore

    @property
    def kind(self) -> str:
        """The suffix that says what it holds."""
        return packed.suffix(self.path)

    @contextmanager
    def utf8(self) -> Iterator[IO[bytes]]:
        """The content as UTF-8 without a mark. Bytes that are none of the encoding stay, for the rows to be refused.

        Raises InputError: `data.binary`, `data.encoding`, and what `packed.opened` raises.
        """
        with packed.opened(self.path) as stream:
            sample = stream.read(SAMPLE)
        mark, encoding = self._encoding(sample)
        with packed.opened(self.path) as stream:
            stream.read(len(mark) if encoding == "utf-8" else 0)
            if encoding == "utf-8":
                yield stream
            else:
                with io.BufferedReader(_Recoded(stream, encoding, self.path), BLOCK) as recoded:
                    yield recoded

    @contextmanager
    def text(self) -> Iterator[io.TextIOWrapper]:
        """The content as text with its line ends; bytes that are not UTF-8 become lone surrogates."""
        with self.utf8() as stream, io.TextIOWrapper(stream, "utf-8", "surrogateescape", newline="") as text:
            yield text

    def head(self, size: int = BLOCK) -> bytes:
        """The first bytes of the content, as UTF-8. Notes are left to who reads on."""
        with File(self.path).utf8() as stream:
            return stream.read(size)

    def _encoding(self, sample: bytes) -> tuple[bytes, str]:
        """The mark at the start, and the encoding."""
        for mark, encoding in MARKS.items():
            if sample.startswith(mark):
                if encoding != "utf-8":
                    self.note(0, "data.recoded", f"read as {encoding.upper()}, as its first bytes say")
                    return mark, encoding
                times = 1
                while sample.startswith(mark, times * len(mark)):  # some programs write it again at each saving
                    times += 1
                return mark * times, encoding
        self._refuse_binary(sample)
        if not sample.isascii() and western(sample):
            word = re.search(rb"\w*[\x80-\xff]+\w*", sample)
            example = word[0][:40].decode("windows-1252") if word else ""
            told = f"not UTF-8; read as Windows-1252 (Latin-1), for example {example!r}"
            self.note(0, "data.recoded", f"{told}. If that looks wrong, save the file as UTF-8")
            return b"", "windows-1252"
        return b"", "utf-8"

    def _refuse_binary(self, sample: bytes) -> None:
        for start, what in BINARY.items():
            if sample.startswith(start):
                raise self._binary(f"this is {what.partition(':')[0]}, not text", what.partition(": ")[2])
        if len(sample) < SMALL:
            return
        few, many = sorted((sample[::2].count(0), sample[1::2].count(0)))
        if many > len(sample) * 0.4 and few < len(sample) * 0.1:
            raise InputError(
                "this looks like UTF-16 without a byte order mark",
                code="data.encoding",
                where=str(self.path),
                hint="Save the file as UTF-8.",
            )
        share = 1 - len(sample.translate(None, CONTROL)) / len(sample)
        if share > 0.1:
            raise self._binary("this is no text: more than a tenth of it are control characters", "")
        if share > 0.02 and not _decodes(sample, whole=False):
            raise self._binary("this is no text: it is not UTF-8 and full of control characters", "")

    def _binary(self, message: str, hint: str) -> InputError:
        hint = f"{hint[:1].upper()}{hint[1:]}." if hint else "Is it the right file?"
        return InputError(message, code="data.binary", where=str(self.path), hint=hint)


def western(sample: bytes) -> bool:
    """Whether bytes are a western European text in Windows-1252 or Latin-1, and nothing else.

    Letters with accents stand alone or by twos there; in other alphabets they come in long runs, and in UTF-8 in runs
    that decode.
    """
    runs = re.findall(rb"[\x80-\xff]+", sample)
    if sample.translate(None, WESTERN).isascii() is False or sum(len(run) > 2 for run in runs) > len(runs) * 0.05:
        return False
    return not any(_decodes(run) for run in runs)


def _decodes(run: bytes, whole: bool = True) -> bool:
    """Whether it is UTF-8; what is not `whole` may end within a character."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(run, whole)
    except UnicodeDecodeError:
        return False
    return True


class _Recoded(io.RawIOBase):
    """Another encoding as UTF-8, block by block."""

    def __init__(self, stream: IO[bytes], encoding: str, path: Path) -> None:
        errors = "strict" if encoding.startswith("utf") else "surrogateescape"
        self._stream, self._path = stream, path
        self._decoder = codecs.getincrementaldecoder(encoding)(errors)
        self._ready, self._ended = b"", False

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        while not self._ready and not self._ended:
            self._ready = self._next()
        size = min(len(target), len(self._ready))
        target[:size], self._ready = self._ready[:size], self._ready[size:]
        return size

    def _next(self) -> bytes:
        block = self._stream.read(BLOCK)
        self._ended = not block
        try:
            return self._decoder.decode(block, not block).encode("utf-8", "surrogatepass")
        except UnicodeDecodeError as error:
            raise InputError(
                f"not valid {error.encoding}: {error.reason}",
                code="data.encoding",
                where=str(self._path),
                hint="Save the file as UTF-8.",
            ) from error
