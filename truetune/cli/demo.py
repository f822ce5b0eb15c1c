"""`ft demo`: a small real fine-tune on the bundled starter model, then questions that no row asks."""

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

SHOWN = 6
"""Questions that are shown with their answers; all of them stand in the document."""


@click.command()
@common.overrides
@common.options
def command(out: Output, overrides: tuple[str, ...]) -> None:
    """Teach the bundled starter model a shop's support answers: about a minute on two CPU cores."""
    with Watch(out) as watch:
        run = load("train")(demo.FOLDER / "train.yml", overrides=overrides, listener=watch)
    out.table(["", ""], page(run.receipt()), title="\nThe receipt")
    examine(out, run)
    finish(out, run)


def examine(out: Output, run: Any) -> None:
    """Ask what no row asks, before and after, and count the answers that state the right fact."""
    asked = demo.paraphrases()
    questions = [each.question for each in asked]
    before, after = (run.generate(questions, base=base, temperature=0.0) for base in (True, False))
    facts = demo.rows()
    rows = [
        {
            "question": each.question,
            "before": old,
            "after": new,
            "row": facts[each.row],
            "right": demo.states(new, each.must),
        }
        for each, old, new in zip(asked, before, after, strict=True)
    ]
    right = {"before": demo.score(before, asked), "after": demo.score(after, asked), "of": len(asked)}
    out.document({"answers": rows, "right": right})
    out.print("\nQuestions in words of their own, asked by no row", style="bold")
    beside(out, rows[:: len(rows) // SHOWN][:SHOWN])
    out.print(
        f"\n{right['after']} of {right['of']} such answers state the right fact; before the training, "
        f"{right['before']}.\n",
        style="bold",
    )
