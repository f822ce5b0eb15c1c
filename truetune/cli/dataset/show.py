"""`ft dataset show`: rows as a model will learn them, token by token."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
from rich.text import Text

from truetune.api import load
from truetune.cli import common, visible
from truetune.cli.common import Output
from truetune.cli.dataset import options
from truetune.report.words import counted, judged

STYLES = {"trained": "bold green", "context": "dim", "cut": "strike red"}
MARKS = {"trained": ("⟦", "⟧"), "context": ("", ""), "cut": ("✂", "✂")}
"""Around runs of tokens, so that the page can be read without colours too."""
LEGEND = {"trained": "trained", "context": "read, not trained", "cut": "beyond max_length: lost or dropped"}


@click.command()
@options.data
@options.reading
@click.option("-n", "rows", default=3, show_default=True, type=click.IntRange(1, 1000), help="Rows to show.")
@common.options
def show(out: Output, data: tuple[str, ...], rows: int, **wanted: Any) -> None:
    """Print rows of DATA with the trained tokens marked."""
    shown = load("dataset_show")(data, n=rows, **wanted)
    out.document(shown)
    out.print(_legend())
    for row in shown["rows"]:
        for line in _lines(row):
            out.print(line)


def _legend() -> Text:
    text = Text()
    for kind, meaning in LEGEND.items():
        before, after = MARKS[kind]
        text.append(f"{before}{meaning}{after}", STYLES[kind])
        text.append("   ")
    return text


def _lines(row: dict[str, Any]) -> Iterator[Text | str]:
    if refused := row.get("refused"):
        yield f"\n{row['where']}  refused: {refused['reason']} ({refused['code']})"
        return
    if not row["examples"]:
        yield f"\n{row['where']}  nothing in this row is trained"
    for example in row["examples"]:
        yield Text(f"\n{visible(row['where'])}  {heading(example)}", "bold")
        yield _tokens(example["tokens"])


def heading(example: dict[str, Any]) -> str:
    """`37 tokens, 19 trained: the better answer`; of a labelled text the label is all that is learned."""
    learned = "" if "labels" in example else f", {example['trained']} trained"
    told = visible(judged(example))
    return counted(example["length"], "token") + learned + (f": {told}" if told else "")


def _tokens(tokens: list[dict[str, Any]]) -> Text:
    """Runs of equally treated tokens in one style, between their marks."""
    text, last = Text(), "context"
    for token in tokens:
        kind = "cut" if token["cut"] else "trained" if token["weight"] else "context"
        if kind != last:
            text.append(MARKS[last][1], STYLES[last])
            text.append(MARKS[kind][0], STYLES[kind])
        text.append(visible(token["text"]), STYLES[kind])
        last = kind
    text.append(MARKS[last][1], STYLES[last])
    return text
