"""`ft dataset prepare`: whatever people have, as one clean file of rows that a training takes as it is."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import Any

import click

from truetune.api import load
from truetune.cli import common, visible
from truetune.cli.common import Output
from truetune.cli.dataset import options
from truetune.cli.dataset.check import FATES, shape
from truetune.cli.evaluate import Watch
from truetune.report.words import counted, listed


@click.command()
@options.data
@click.option("--out", "file", required=True, metavar="FILE", type=click.Path(dir_okay=False), help="Where rows go.")
@options.reading
@click.option("--too-long", metavar="RULE", help="What happens to longer rows: drop, truncate, split or error.")
@click.option("--dedupe", metavar="RULE", help="exact, near or none.")
@click.option("--split", metavar="PART", help="Rows for a validation file beside it: 0.1, 10% or 200.")
@click.option("--clean", is_flag=True, help="Mend broken characters, control characters and white space.")
@click.option("--against", multiple=True, metavar="FILE", help="Rows that must not be learned, such as a test set.")
@click.option("--report", is_flag=True, help="Write a page with histograms beside it.")
@click.option("--yes", is_flag=True, help="Replace files that are there.")
@common.options
def prepare(
    out: Output,
    data: tuple[str, ...],
    file: str,
    split: str | None,
    clean: bool,
    report: bool,
    yes: bool,
    **wanted: Any,
) -> None:
    """Read DATA, leave out what can't be learned, and write the rest to one file (.jsonl, .json, .csv or .parquet).

    Each row says where it came from; rows that are left out stand beside it with their reasons.
    """
    with Watch(out) as watch:
        result = load("dataset_prepare")(
            data, file, split=split, clean=clean, report=report, replace=yes, listener=watch, **wanted
        )
    out.document(result)
    show(out, result, data)
    options.refuse_unwritten(result)


def show(out: Output, result: dict[str, Any], data: Sequence[str]) -> None:
    rows, form = result["rows"], result["format"]
    files = listed([visible(source["path"]) for source in result["files"]])
    out.print(f"{files}: {counted(rows['read'], 'row')}, {shape(form)}", style="bold")
    out.table(("", "", ""), list(table(result)))
    if rejected := [found for found in result["findings"] if found["level"] != "note"]:
        asked = shlex.join(["ft", "dataset", "check", *data])
        told = f"{counted(len(rejected), 'finding')} in what was read: `{asked}` tells"
        out.print(told, style="yellow")
    out.print(f"next    {result['next']}")


def table(result: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    rows = result["rows"]
    yield "written", counted(rows["train"] if result["validation"] else rows["used"], "row"), result["out"]
    if result["validation"]:
        yield "held out", counted(rows["validation"], "row"), result["validation"]
    if result["mended"]:
        done = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in result["mended"].items())
        yield "mended", counted(result["mended_rows"], "row"), done
    for key, words in FATES.items():
        if rows.get(key):
            yield ("left out" if key != "truncated" else ""), f"{rows[key]:,}", words
    if result["rejects"]:
        yield "", "", result["rejects"]
    for path in result["report"]:
        yield "page", "", path
