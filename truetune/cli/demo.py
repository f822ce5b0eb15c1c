"""`ft demo`: a small real fine-tune on the bundled starter model, with answers before and after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from truetune.api import load
from truetune.cli import common
from truetune.cli.common import Output
from truetune.cli.progress import Watch
from truetune.cli.train import finish


@click.command()
@common.overrides
@common.options
def command(out: Output, overrides: tuple[str, ...]) -> None:
    """Teach the bundled starter model a shop's support answers: about a minute on two CPU cores."""
    config = Path("examples/support/train.yml")
    with Watch(out) as watch:
        run = load("train")(config, overrides=overrides, listener=watch)
    compare(out, run)
    finish(out, run)


def compare(out: Output, run: Any) -> None:
    """Answers to held-out questions, before and after."""
    samples = run.samples()
    first, last = min(row["step"] for row in samples), max(row["step"] for row in samples)
    after = {row["row"]: row for row in samples if row["step"] == last}
    rows = [
        (question(row["prompt"]), row["answer"], after[row["row"]]["answer"], row["reference"])
        for row in samples
        if row["step"] == first and row["row"] in after
    ]
    out.document({"answers": [dict(zip(("question", "before", "after", "row"), row, strict=True)) for row in rows]})
    for prompt, before, now, reference in rows:
        out.print(f"\n{prompt}", style="bold")
        out.print(f"  before  {one_line(before)}", style="red")
        out.print(f"  after   {one_line(now)}", style="green")
        out.print(f"  row     {one_line(reference)}", style="dim")
    out.print()
