"""`ft dataset convert`: the same rows in another notation or kind of file."""

from __future__ import annotations

from typing import Any

import click

from truetune.api import load
from truetune.cli import common, visible
from truetune.cli.common import Output
from truetune.cli.dataset import options
from truetune.report.words import counted, listed

NAMED = 5
"""Rejects and columns that are shown."""


@click.command()
@options.data
@click.option(
    "--to", required=True, metavar="NOTATION", help="openai, sharegpt, alpaca, …, or a kind of file: parquet, csv, …"
)
@click.option("--out", "file", metavar="FILE", type=click.Path(dir_okay=False), help="Default: beside the first file.")
@options.form
@options.columns
@click.option("--yes", is_flag=True, help="Replace a file that is there.")
@common.options
def convert(out: Output, data: tuple[str, ...], to: str, file: str | None, yes: bool, **wanted: Any) -> None:
    """Write the rows of DATA in another notation; what it can't hold is named and left out."""
    result = load("dataset_convert")(data, to, file, replace=yes, **wanted)
    out.document(result)
    rows, form = result["rows"], result["format"]
    out.print(f"{form['name']} → {result['notation']}: {counted(rows['written'], 'row')} in {visible(result['out'])}")
    if unused := result["unused_columns"]:
        out.print(f"        columns that are not used: {listed(unused, NAMED)}")
    for reject in result["rejects"][:NAMED]:
        out.print(f"        {reject['where']}: {reject['reason']}", style="yellow")
    if (more := rows["rejected"] - NAMED) > 0:
        out.print(f"        and {more:,} more", style="yellow")
    if rows["rejected"]:
        out.print(f"{counted(rows['rejected'], 'row')} of {rows['read']:,} not written", style="yellow")
