"""The options that the verbs about data share: they are keys of train.yml, and None leaves them to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

from truetune.cli.common import pairs
from truetune.errors import ResourceError

Verb = Callable[..., None]

data = click.argument("data", nargs=-1, required=True, metavar="DATA…")
model = click.option("--model", metavar="MODEL", help="Whose tokenizer and chat template. [default: starter]")


def _columns(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> dict[str, str] | None:
    return pairs(value) or None


form = click.option("--format", metavar="FORMAT", help="Shape of the rows: auto, messages, alpaca, …")
columns = click.option(
    "--columns",
    multiple=True,
    callback=_columns,
    metavar="OURS=YOURS",
    help="Your columns, as prompt=frage.",
)


def refuse_unwritten(result: Mapping[str, Any]) -> None:
    """Raises ResourceError `data.page` where everything is done and shown, but the page could not be written."""
    if error := result.get("unwritten"):
        raise ResourceError(
            f"the page can't be written: {error['message']}",
            code="data.page",
            where=error["where"],
            hint=error["hint"] or "Name a file that can be written: --report FILE.",
        )


def reading(verb: Verb) -> Verb:
    """How rows become tokens."""
    options: list[Any] = [
        model,
        form,
        columns,
        click.option("--template", metavar="TEMPLATE", help="auto, none, a name such as chatml, or a Jinja file."),
        click.option("--train-on", type=click.Choice(["assistant", "all", "last"]), help="What is learned."),
        click.option("--max-length", type=click.IntRange(8), help="Longest example, in tokens. [default: 2048]"),
    ]
    for option in reversed(options):
        verb = option(verb)
    return verb
