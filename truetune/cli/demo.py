"""`ft demo`: a small real fine-tune on the bundled starter model, with answers before and after."""

from __future__ import annotations

from typing import Any

import click

from truetune import demo
from truetune.api import load
from truetune.cli import common
from truetune.cli.answers import beside
from truetune.cli.common import Output
from truetune.cli.progress import Watch
from truetune.cli.receipt import page
from truetune.cli.train import finish


@click.command()
@common.overrides
@common.options
def command(out: Output, overrides: tuple[str, ...]) -> None:
    """Teach the bundled starter model a shop's support answers: about a minute on two CPU cores."""
    with Watch(out) as watch:
        run = load("train")(demo.FOLDER / "train.yml", overrides=overrides, listener=watch)
    compare(out, run)
    out.table(["", ""], page(run.receipt()), title="The receipt")
    out.print()
    finish(out, run)


def compare(out: Output, run: Any) -> None:
    """Answers to held-out questions, before and after; none where `evaluation.samples=0` asks for none."""
    samples = run.samples()
    if not samples:
        return
    rows = [
        {"question": row["question"], "before": row["base"], "after": row["answer"], "row": row["reference"]}
        for row in samples
        if row["step"] == samples[-1]["step"]
    ]
    beside(out, rows)
