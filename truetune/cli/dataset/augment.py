"""`ft dataset augment`: more rows from rows, written by a model that the user names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
from rich.text import Text

from truetune.api import load
from truetune.augment.words import METHODS, REASONS
from truetune.cli import common
from truetune.cli.common import Output
from truetune.cli.dataset import options
from truetune.cli.evaluate import Watch, brief
from truetune.errors import CheckFailed
from truetune.report.words import counted


@click.command()
@options.data
@click.option("--method", required=True, type=click.Choice(METHODS), help="How new rows are made.")
@click.option("--model", required=True, metavar="MODEL", help="Who writes: a model, adapter or run, or a name there.")
@click.option("--out", "file", required=True, metavar="FILE", help="The new rows, a .jsonl file.")
@click.option("--per-row", default=2, show_default=True, type=click.IntRange(1, 100), help="New rows for each row.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Most rows that are made more of, drawn by seed.")
@click.option("--seed", default=42, show_default=True, type=int, help="Of the drawing, and of the answers.")
@click.option("--temperature", default=0.9, show_default=True, type=float, help="0 = always the likeliest token.")
@click.option("--max-new-tokens", default=512, show_default=True, type=int, metavar="N", help="Longest answer.")
@click.option("--via", default="German", show_default=True, metavar="LANGUAGE", help="backtranslate: through it.")
@click.option(
    "--language", default="English", show_default=True, metavar="LANGUAGE", help="backtranslate: of the rows."
)
@click.option("--endpoint", metavar="ADDRESS", help="Ask there (OpenAI's protocol): https://…/v1. Rows are sent there.")
@click.option("--key", metavar="NAME", help="Its key's name in passwords.yml, such as openai.key.")
@click.option("--slots", type=click.IntRange(1, 1024), default=8, show_default=True, help="Answers written at once.")
@options.form
@options.columns
@click.option("--validation", metavar="PART", help="As data.validation: so many rows are spared. [default: auto]")
@click.option("--yes", is_flag=True, help="Replace the file if it is there.")
@common.dry_run
@common.device
@common.options
def augment(
    out: Output, data: tuple[str, ...], method: str, model: str, file: str, device: str | None, **wanted: Any
) -> None:
    """Have a model write more rows like those of DATA, and keep those that are usable.

    paraphrase: the question in other words. backtranslate: through another language and back. synthetic: a new question
    and its answer. Train on both files: `data: {path: [rows.jsonl, more.jsonl]}`.
    """
    with Watch(out) as watch:
        result = load("dataset_augment")(data, method, model, file, device=device or "auto", listener=watch, **wanted)
    out.document(result)
    if wanted["dry_run"]:
        plan(out, result, file)
        return
    for line in lines(result):
        out.print(line)
    if not result["written"]:
        raise CheckFailed(
            f"none of {counted(result['asked'], 'answer')} can be used, so nothing was written",
            code="augment.nothing",
            where=result["model"],
            hint="Small models write poor rows: name a larger one that follows instructions.",
        )
    for path in watch.saved:
        out.print(f"saved   {path}: look at the rows before you train on them", style="dim")


def plan(out: Output, result: dict[str, Any], file: str) -> None:
    """What would be asked, whom, and where it would go."""
    who = f"{result['model']} at {result['endpoint']}" if result["endpoint"] else result["model"]
    rows = counted(result["rows"]["seeds"], "row")
    out.print(f"{who} would be asked for {counted(result['wanted'], 'new row')} from {rows}, into {file}", style="bold")
    out.print(f"\nthe first question to it:\n{result['prompt']}")


def lines(result: dict[str, Any]) -> Iterator[Text]:
    """How many rows came of it, why others did not, and some of them beside what they are made from."""
    yield Text(f"{result['method']}: {result['written']:,} of {counted(result['asked'], 'answer')} used", "bold")
    for reason, count in sorted(result["rejected"].items(), key=lambda each: -each[1]):
        yield Text(f"  {count:>6,} left out: {REASONS[reason]}", "yellow")
    for example in result["examples"]:
        yield Text(f"\n{brief(example['after'])}", "bold")
        yield Text(f"  {'made from':<10} {brief(example['before'])}", "dim")
        yield Text(f"  {'answer':<10} {brief(example['answer'])}", "dim")
