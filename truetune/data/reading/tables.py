"""CSV in any dialect, and TSV: which one is told from a sample of the whole, then every record is held to it.

A dialect is better than another if more records of the sample have as many cells as the header. Commas and doubled
quotes (RFC 4180) win where nothing is better; anything else is said in a note.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from truetune.data.reading import values
from truetune.data.reading.file import File
from truetune.data.reading.values import Item, Value, bad_text, printable
from truetune.data.rows import RAW_LIMIT, RowError
from truetune.errors import InputError

SAMPLE = 2**18
"""Characters at the start of a table that its dialect is told from."""
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}


@dataclass(frozen=True)
class Dialect:
    """How cells are told apart: `style` is how they are quoted, a row of `STYLES`."""

    separator: str
    style: str

    def options(self) -> dict[str, Any]:
        return {"delimiter": self.separator, "strict": True, **STYLES[self.style]}

    def sentence(self) -> str:
        said = "" if self.style == "quotes" else f", {self.style}"
        return f"cells are separated by {SEPARATORS.get(self.separator, repr(self.separator))}{said}"


STYLES: dict[str, dict[str, Any]] = {
    "quotes": {},
    "quoted after spaces": {"skipinitialspace": True},
    "quotes in them behind backslashes": {"escapechar": "\\", "doublequote": False},
    "quoted by apostrophes": {"quotechar": "'"},
    "never quoted": {"quoting": csv.QUOTE_NONE},
}
SIGNS = {
    "quotes": "",
    "quoted after spaces": r'{0} +"',
    "quotes in them behind backslashes": r'\\"',
    "quoted by apostrophes": r"(?m:(?:^|{0})'[^'\n]*'(?:{0}|\r?$))",
    "never quoted": r'\t[^\t\n]*"',
}
"""What must stand somewhere in the sample for a style to be tried."""


def table(file: File) -> Iterator[Item]:
    """A table with a header. A row has as many cells as the header. Raises InputError (`data.header`)."""
    csv.field_size_limit(values.LINE)
    sample = file.head(SAMPLE).decode("utf-8", "replace")
    told = re.match(r"sep=([,;\t|:])\r?\n", sample)  # a line that spreadsheets write and read
    dialect = Dialect(told[1], "quotes") if told else sniff(sample, _usual(file))
    if dialect != Dialect(_usual(file), "quotes"):
        file.note(0, "csv.dialect", dialect.sentence())
    with file.text() as stream:
        if told:
            stream.readline()
        quote = str(STYLES[dialect.style].get("quotechar", '"'))
        yield from _records(file, Lines(stream, quote), dialect, skipped=1 if told else 0)


def sniff(sample: str, usual: str) -> Dialect:
    """The dialect in which most records have as many cells as the header, `usual` separators before others."""
    separators = [usual, *(sign for sign in SEPARATORS if sign != usual)]
    tried = [Dialect(*pair) for pair in product(separators, STYLES) if _possible(sample, *pair)]
    best = max(tried, key=lambda dialect: _fitting(sample, dialect))  # the first of equals
    return best if _fitting(sample, best)[0] else Dialect(usual, "quotes")


class Lines:
    """Lines of a stream, none longer than a row may be: for such a line stands what ends a record, and `cut` is set."""

    def __init__(self, stream: io.TextIOWrapper, quote: str = "") -> None:
        self.stream, self.quote = stream, quote
        self.cut, self.start, self.fresh = False, "", True

    def __iter__(self) -> Iterator[str]:
        limit = values.LINE
        while line := self.stream.readline(limit + 1):
            more = line
            while len(more) > limit and not more.endswith("\n"):
                self.cut, self.start = True, line[:RAW_LIMIT]
                more = self.stream.readline(limit + 1)
            line = line if not self.cut else "\n" if self.fresh else f"{self.quote}\n"
            self.fresh = False
            yield line

    def refused(self) -> RowError | None:
        """Why the record that ends here is none, if a line of it was too long. The next one is to begin."""
        cut, self.cut, self.fresh = self.cut, False, True
        return values.too_big() if cut else None


def _records(file: File, lines: Lines, dialect: Dialect, skipped: int) -> Iterator[Item]:
    rows = csv.reader(iter(lines), **dialect.options())
    header: list[str] | None = None
    width = 0
    while True:
        line = rows.line_num + skipped + 1
        cells: list[str] = []
        broken: RowError | None = None
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            broken = _broken(error, rows.line_num + skipped - line + 1)
        broken = lines.refused() or broken
        if broken:
            yield line, broken, printable(lines.start)
        elif header is None:
            header, width = _header(file, line, cells), len(cells)
            _check_title(file, line, cells, dialect)
        elif cells:
            yield line, _record(header, cells, width), printable(dialect.separator.join(cells))
        lines.start = ""


def _usual(file: File) -> str:
    return "\t" if file.kind == ".tsv" else ","


def _possible(sample: str, separator: str, style: str) -> bool:
    if style == "never quoted" and (separator != "\t" or re.search(r'(?m:(?:^|\t)"[^\t\n]*"(?:\t|\r?$))', sample)):
        return False
    if style == "quoted by apostrophes" and re.search(rf'(?m:(?:^|{re.escape(separator)})")', sample):
        return False
    return bool(re.search(SIGNS[style].format(re.escape(separator)), sample)) if SIGNS[style] else True


def _fitting(sample: str, dialect: Dialect) -> tuple[int, int]:
    """How many records have as many cells as the header (of at least two), and how many cells these are."""
    text = sample if len(sample) < SAMPLE else sample.rpartition("\n")[0]
    counts = [len(cells) for cells in _sampled(text, dialect)]
    if not counts or counts[0] < 2:
        return 0, 0
    return sum(count == counts[0] for count in counts), counts[0]


def _sampled(text: str, dialect: Dialect) -> Iterator[list[str]]:
    """The records of a sample, as far as they are any."""
    rows = csv.reader(io.StringIO(text, newline=""), **dialect.options())
    while True:
        try:
            yield from (cells for cells in [next(rows)] if cells)
        except StopIteration:
            return
        except csv.Error:
            continue


def _header(file: File, line: int, cells: list[str]) -> list[str]:
    """The names of the columns. Two of the same name would hide one another."""
    names = [cell.strip() for cell in cells]
    while len(names) > 1 and not names[-1]:  # columns that a spreadsheet had something in once
        names.pop()
    bad = bad_text(names)
    double = next((name for place, name in enumerate(names) if name in names[:place]), None)
    message = f"a name {bad.reason}" if bad else f"two columns are called {double!r}"
    if not any(names):
        double, message = "", "no column has a name"
    if bad or double is not None:
        hint = "Save the file as UTF-8 text." if bad else "Give each column a name of its own."
        raise InputError(message, code="data.header", where=f"{file.path}:{line}", hint=hint)
    return names


def _check_title(file: File, line: int, cells: list[str], dialect: Dialect) -> None:
    """Refuse a line with one cell above records that have more: it is a title, the header stands below."""
    if sum(map(bool, cells)) != 1:
        return
    text = file.head(SAMPLE).decode("utf-8", "replace")
    rows = _sampled(text if len(text) < SAMPLE else text.rpartition("\n")[0], dialect)
    filled = Counter(count for row in rows if (count := sum(map(bool, row))))
    filled[1] -= 1
    usual, times = filled.most_common(1)[0]
    if usual > 1 < times and times > 0.9 * filled.total():
        raise InputError(
            f"the first line holds one cell and the lines below it {usual}: is it a title above the header?",
            code="data.header",
            where=f"{file.path}:{line}",
            hint="Delete what stands above the names of the columns.",
        )


def _broken(error: csv.Error, count: int) -> RowError:
    """A bad record; one that runs to the end of the file has swallowed every row after it."""
    if "unexpected end of data" in str(error) or ("field larger" in str(error) and count > 1):
        return RowError("data.broken_file", f"a quote is not closed: it takes in {count} lines")
    taken = f", over {count} lines" if count > 1 else ""
    return RowError("csv.syntax", f"not valid CSV: {error}{taken}")


def _record(header: list[str], cells: list[str], width: int) -> Value:
    """`width` is how many cells the header has with those at its end that are empty, which rows may have, too."""
    nameless = next((place for place, cell in enumerate(cells) if place >= len(header) and cell), None)
    if len(cells) == width and nameless is not None:
        return RowError("data.ragged_row", f"cell {nameless + 1} of the row stands in a column without a name")
    if len(cells) not in (len(header), width):
        noun = "cell" if len(cells) == 1 else "cells"
        return RowError("data.ragged_row", f"the row has {len(cells)} {noun}, the header has {len(header)}")
    cells = cells[: len(header)]
    return bad_text(cells) or dict(zip(header, cells, strict=True))
