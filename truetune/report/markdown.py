"""The report as Markdown, for editors, repositories and terminals. Foreign text stays text: see `train.markdown`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from truetune.report.account import Line
from truetune.report.answers import Answer
from truetune.report.page import UNDRAWN, Page
from truetune.train.markdown import block, code, inline, table

MARKS = {"good": "✓", "note": "→", "bad": "✗"}
LABELS = {"asked": "question", "before": "before", "after": "after", "row": "reference"}
"""What a part of a sample is called, and its field."""
TEXTS = {"begins": "question", "before": "before", "after": "after", "text": "reference"}


def markdown(page: Page, plots: Sequence[tuple[str, str, str]]) -> str:
    """The whole page. `plots` are (title, path of the picture, what it shows)."""
    sections = [
        head(page),
        samples(page),
        curves(page, plots),
        figures(page),
        advice(page),
        data(page),
        receipt(page),
        settings(page),
        usage(page),
    ]
    return "\n\n".join("\n".join(section) for section in sections) + "\n"


def head(page: Page) -> Iterator[str]:
    yield f"# {inline(page.subject)}"
    yield ""
    yield f"**{MARKS[page.verdict.tone]} {coded(page.verdict.text)}**"
    yield ""
    yield " · ".join(filter(None, [f"Run {code(page.id)}", page.date, "[as a page](finetune_report.html)"]))


def samples(page: Page) -> Iterator[str]:
    yield "## Before and after"
    yield ""
    yield coded(page.answered)
    for item in page.answers:
        yield ""
        labels = TEXTS if page.texts else LABELS
        yield block("\n".join(f"{label:<6}  {indented(item, name)}" for label, name in labels.items()), "text")


def indented(item: Answer, name: str) -> str:
    return str(getattr(item, name)).replace("\n", "\n" + " " * 8)


def curves(page: Page, plots: Sequence[tuple[str, str, str]]) -> Iterator[str]:
    yield "## The curves"
    for title, path, alt in plots:
        yield ""
        yield f"**{title}**"
        yield ""
        yield f"![{inline(alt)}]({path})"
    if page.ran and not plots:
        yield ""
        yield UNDRAWN
    if page.curves:
        yield ""
        yield coded(page.curves)


def figures(page: Page) -> Iterator[str]:
    yield "## The figures"
    if page.compared:
        rows = [(item.name, item.before, f"**{item.after}**", item.change) for item in page.compared]
        yield ""
        yield from table(("", "before", "after", "change"), rows)
    yield ""
    yield from lines(page.ran)
    for found in page.scores:
        yield ""
        yield f"**{inline(found.title)}**"
        yield ""
        cells = [(item.title, item.before, item.after, item.verdict) for item in found.rows]
        yield from table(("", "base", "tuned", ""), [tuple(map(inline, row)) for row in cells])


def advice(page: Page) -> Iterator[str]:
    yield "## Recommendations"
    yield ""
    if not page.advice:
        yield "None: nothing in the figures asks for a change."
    for number, item in enumerate(page.advice, 1):
        title = f"{item.title} (look at this first)" if item.serious else item.title
        yield f"{number}. **{coded(title)}.** {coded(item.because)} {coded(item.change)}"


def data(page: Page) -> Iterator[str]:
    yield "## The data"
    yield ""
    yield from lines(page.data) if page.data else ["The data was never prepared."]
    if page.rejects:
        yield ""
        yield "Rows that are not used:"
        yield ""
        yield from (f"- {inline(where)}: {inline(reason)}" for where, reason in page.rejects)
    if page.more_rejects:
        yield f"- and {page.more_rejects:,} more, each with its reason in `rejects.jsonl`"


def receipt(page: Page) -> Iterator[str]:
    yield "## The receipt"
    yield ""
    if not page.digests:
        yield "There is none yet."
        return
    yield from lines(page.receipt)
    yield ""
    yield from table(
        ("stage", "sha256 of its receipt"), [(inline(stage), f"`{digest}`") for stage, digest in page.digests]
    )
    yield ""
    named = f"The model card names the digest of `{page.anchor}`."
    yield f"`ft receipt verify {page.address}` recomputes all of it, offline. {named}"


def settings(page: Page) -> Iterator[str]:
    yield "## What was chosen"
    yield ""
    if page.settings:
        rows = [(f"`{key}`", code(value), code(usual)) for key, value, usual in page.settings]
        yield from table(("setting", "here", "default"), rows)
    else:
        yield "Every setting has its default."
    yield ""
    yield "Every value stands in [resolved.json](resolved.json), what was written in [train.yml](train.yml)."


def usage(page: Page) -> Iterator[str]:
    yield "## Use it"
    yield ""
    if not page.result:
        yield "There is no result yet."
        return
    yield block(f"ft chat {page.address}", "sh")
    yield ""
    yield f"or, from this folder, in Python, with what is in [{page.result}/]({page.result}/README.md):"
    yield ""
    yield block(page.usage, "python")


def lines(rows: Sequence[Line]) -> list[str]:
    return table(("", ""), [(inline(label), inline(text)) for label, text in rows])


def coded(text: str) -> str:
    """Text whose parts between backticks are code."""
    parts = text.split("`")
    return "".join(code(part) if place % 2 else spaced(part) for place, part in enumerate(parts))


def spaced(text: str) -> str:
    """`inline` that keeps the spaces at the ends."""
    left, right = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]
    return f"{left}{inline(text)}{right}" if text.strip() else text
