"""The page of a data check as Markdown, for editors, repositories and terminals. Foreign text stays text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from truetune.report.dataset_page import Item, Page
from truetune.report.markdown import MARKS, coded, lines
from truetune.report.words import percent
from truetune.train.markdown import block, code, inline, table

WIDE = 40
"""Characters of the longest bar."""


def markdown(page: Page) -> str:
    sections = [head(page), findings(page), lengths(page), balances(page), rows(page), files(page)]
    texts = ["\n".join(section) for section in sections]
    return "\n\n".join(text for text in texts if text) + "\n"


def head(page: Page) -> Iterator[str]:
    yield f"# {inline(page.subject)}"
    yield ""
    yield f"**{MARKS[page.verdict.tone]} {coded(page.verdict.text)}**"
    yield ""
    yield " · ".join(map(inline, page.under))
    yield ""
    counts = [(inline(each.label), f"{each.count:,}", percent(each.share)) for each in page.segments]
    yield from table(("rows", "", ""), counts)
    yield ""
    yield from lines([(tile.label, f"{tile.big} ({tile.note})") for tile in page.tiles])


def findings(page: Page) -> Iterator[str]:
    yield "## What was found"
    if not page.findings:
        yield ""
        yield "Nothing."
    for number, item in enumerate(page.findings, 1):
        yield ""
        aside = ", ".join(filter(None, [item.amount, code(item.code)]))
        yield f"{number}. **{item.level}: {coded(item.title)}** ({aside})"
        yield from (f"   {part}" for part in details(item))


def details(item: Item) -> Iterator[str]:
    if item.places:
        more = f" and {item.unnamed:,} more" if item.unnamed else ""
        yield f"- {', '.join(map(code, [*item.places, *item.more]))}{more}"
    if item.examples:
        yield f"- such as {', '.join(map(code, item.examples))}"
    if item.todo:
        yield f"- {coded(item.todo)}"


def lengths(page: Page) -> Iterator[str]:
    total = page.lengths.get("total")
    if total:
        yield "## How long the rows are"
        yield ""
        yield block("\n".join(bars(total, page.max_length)), "text")


def bars(figures: dict[str, Any], max_length: int) -> Iterator[str]:
    """A histogram of letters; `max_length` stands between two of its bars."""
    most = max(rows for _, _, rows in figures["bins"])
    for start, stop, count in figures["bins"]:
        if start < max_length <= stop - 1 or start == max_length:
            yield f"{'':>15} --- max_length {max_length:,}"
        bar = "█" * round(WIDE * count / most) or ("▏" if count else "")
        yield f"{start:>7,}–{stop - 1:<7,} {bar} {count:,}"


def balances(page: Page) -> Iterator[str]:
    for balance in page.balances:
        yield f"## {inline(balance.title)}"
        yield ""
        yield from table(("", ""), [(inline(name), amount) for name, amount, _ in balance.bars])
        if balance.more:
            yield ""
            yield balance.more
        yield ""
    if page.words:
        yield "## The tokens"
        yield ""
        yield from lines(page.words)


def rows(page: Page) -> Iterator[str]:
    if page.rows:
        yield "## Rows as they are learned"
        yield ""
        yield "What is learned stands between ⟦ and ⟧; what follows ✂ is cut by `data.max_length`."
    for row in page.rows:
        yield ""
        yield f"{code(row.where)}: {inline(row.note)}"
        for part in row.parts:
            yield ""
            yield block("".join(told(kind, "".join(texts)) for kind, texts in part), "text")


def told(kind: str, text: str) -> str:
    return {"trained": f"⟦{text}⟧", "cut": f"✂{text}", "read": text}[kind]


def files(page: Page) -> Iterator[str]:
    yield "## The files"
    yield ""
    cells = [(code(path), count, size, code(digest)) for path, count, size, digest in page.files]
    yield from table(("file", "rows", "size", "sha256"), cells)
