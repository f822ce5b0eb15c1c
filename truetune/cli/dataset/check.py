"""`ft dataset check`: what is wrong with the rows, and what a training would make of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import click
from rich.text import Text

from truetune.api import load
from truetune.cli import common, visible
from truetune.cli.common import Output
from truetune.cli.dataset import options
from truetune.cli.evaluate import Watch
from truetune.errors import CheckFailed
from truetune.report.words import clock, counted, listed, size

STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}
SKIPPED = "; a training skips bad rows up to data.max_rejects."
PLACES = 5
"""Places of a finding that are shown; the document of `--json` and the page have more."""
FATES = {
    "rejected": "bad",
    "deduplicated": "twice",
    "contaminated": "also in what is measured on",
    "too_long": "too long",
    "unsupervised": "with nothing to learn",
    "sampled_out": "left out by their weight",
    "truncated": "cut",
}


@click.command()
@options.data
@options.reading
@click.option("--too-long", metavar="RULE", help="What happens to longer rows: drop, truncate, split or error.")
@click.option("--dedupe", metavar="RULE", help="exact, near or none.")
@click.option("--against", multiple=True, metavar="FILE", help="Rows that must not be learned, such as a test set.")
@click.option("--report", metavar="FILE", type=click.Path(dir_okay=False), help="Write a page with histograms there.")
@click.option("--no-estimate", is_flag=True, help="Leave out the time of a training, which takes a measured step.")
@common.options
def check(
    out: Output, data: tuple[str, ...], against: tuple[str, ...], report: str | None, no_estimate: bool, **wanted: Any
) -> None:
    """Say what is wrong with DATA (files, folders, patterns or a train.yml), row by row.

    Exit code 1 if there are errors, such as rows that can't be used.
    """
    with Watch(out) as watch:
        result = load("dataset_check")(
            data, against=against, report=report, estimate=not no_estimate, listener=watch, **wanted
        )
    out.document(result)
    show(out, result)
    options.refuse_unwritten(result)
    if result["verdict"] == "errors":
        bad = [found for found in result["findings"] if found["level"] == "error"]
        raise CheckFailed(
            f"{counted(len(bad), 'kind')} of error, the first: {bad[0]['message']}",
            code="data.check",
            where=bad[0]["where"][0] if bad[0]["where"] else "",
            hint="Each is listed above with what to do" + (SKIPPED if result["rows"]["rejected"] else "."),
        )


def show(out: Output, result: dict[str, Any]) -> None:
    """The page: what the rows are, the counts, the findings, what is next."""
    rows, form = result["rows"], result["format"]
    files = listed([visible(source["path"]) for source in result["files"]])
    out.print(f"{files}: {counted(rows['read'], 'row')}, {shape(form)}", style="bold")
    out.table(("", ""), list(table(result)))
    for finding in result["findings"]:
        for line in lines(finding):
            out.print(line)
    if not result["findings"]:
        out.print("\nnothing is wrong with these rows", style="green")
    for path in result.get("report", ()):
        out.print(f"page    {path}", style="dim")


def shape(form: dict[str, Any]) -> str:
    """`alpaca`, and how sure that is where it was found by looking."""
    return f"{form['name']} ({form['share']:.0%} of {form['seen']:,} looked at)" if form["detected"] else form["name"]


def table(result: dict[str, Any]) -> Iterator[tuple[str, str]]:
    rows, tokens, trained, lengths = (result[key] for key in ("rows", "tokens", "supervised", "lengths"))
    aside = [f"{rows[key]:,} {words}" for key, words in FATES.items() if rows.get(key)]
    used = f"{rows['used']:,} used: {rows['train']:,} to train on, {rows['validation']:,} held out"
    yield "rows", "; ".join([used, *aside])
    yield "tokens", f"{tokens['train'] + tokens['validation']:,}, of them {sum(trained.values()):,} trained"
    spread = f"shortest {lengths['min']:,}, half below {lengths['median']:,}, 95% below {lengths['p95']:,}"
    yield "lengths", f"{spread}, longest {lengths['max']:,} tokens (max_length {result['max_length']:,})"
    yield "rendered", f"{result['template']}, for {visible(result['model'])}: `ft dataset show` shows the tokens"
    if estimate := result["estimate"]:
        steps = f"{counted(estimate['steps'], 'step')} of {estimate['epochs']:g} epochs"
        yield "training", f"about {clock(estimate['seconds'])} for {steps}, {size(estimate['peak_memory'])} at the peak"


def lines(finding: dict[str, Any]) -> Iterator[Text]:
    """A finding: how grave, what, how many rows; where; what to do."""
    head = Text(f"\n{finding['level']:<8}", STYLES[finding["level"]])
    head.append(visible(finding["message"]), "bold" if finding["level"] != "note" else "")
    many = f"  {counted(finding['count'], 'row')}, {finding['share']:.1%}" if finding["share"] else ""
    yield head.append(f"{many}  {finding['code']}", "dim")
    if finding["where"]:
        more = finding["count"] - PLACES
        yield Text(f"        {places(finding['where'][:PLACES])}" + (f" and {more:,} more" if more > 0 else ""))
    if finding["hint"]:
        yield Text(f"        → {finding['hint']}", "cyan")


def places(where: Sequence[str]) -> str:
    """`support.csv:41, 77; more.csv:3`: each file is named once."""
    lines: dict[str, list[str]] = {}
    for place in where:
        file, _, line = place.rpartition(":")
        lines.setdefault(file or place, []).append(line if file else "")
    return "; ".join(visible(f"{file}:{', '.join(found)}".rstrip(":")) for file, found in lines.items())
