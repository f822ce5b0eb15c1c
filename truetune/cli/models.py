"""`ft models fit`: which methods of training fit into which memory, before anything is downloaded or loaded."""

from __future__ import annotations

from typing import Any

import click

from truetune.api import load
from truetune.cli import common
from truetune.cli.common import Output
from truetune.models.memory import readable


@click.group()
def command() -> None:
    """Models: what fits into which memory."""


@command.command()
@click.argument("model")
@click.option("--memory", metavar="SIZE", help="For this much, as 8GB. Default: the sizes that GPUs have.")
@click.option("--length", type=click.IntRange(8), default=2048, show_default=True, help="Longest example, in tokens.")
@click.option("--r", type=click.IntRange(1, 4096), default=16, show_default=True, help="Rank of the adapter.")
@click.option(
    "--dtype",
    type=click.Choice(["bfloat16", "float32"]),
    default="bfloat16",
    show_default=True,
    help="Number type: bfloat16 as GPUs compute, float32 as processors do.",
)
@click.option("--revision", metavar="NAME", help="Commit, tag or branch of a hub model.")
@common.options
def fit(out: Output, model: str, **asked: Any) -> None:
    """Which methods of training fit into which memory, from the model's config.json alone.

    MODEL is `starter`, a folder or a hub id; of a hub model only config.json is downloaded.
    """
    found = load("models_fit")(model, **asked)
    out.document(found)
    about = "" if found["exact"] else "about "
    out.print(f"{found['model']}: {about}{found['parameters']:,} parameters, {found['dtype']}, r = {found['r']}")
    if len(found["sizes"]) == 1:
        one(out, found)
    else:
        several(out, found)


def one(out: Output, found: dict[str, Any]) -> None:
    """What each method needs, and whether a memory holds it."""
    (size,) = found["sizes"]
    columns = ["method", "weights", "trained", "activations", "total", "longest example", "fits"]
    rows = [
        (
            name(row),
            *(readable(row[part]) for part in ("weights", "trained", "activations", "total")),
            tokens(row),
            verdict(row),
        )
        for row in size["methods"]
    ]
    out.table(columns, rows)
    out.print(
        f"For examples of {found['length']:,} tokens; training plans with {readable(size['room'])} of "
        f"{readable(size['memory'])}. Weights: the frozen model or all of it; trained: adapter, gradients, optimizer."
    )


def several(out: Output, found: dict[str, Any]) -> None:
    """The longest example that fits, method by memory."""
    sizes = found["sizes"]
    rows = [
        (name(rows[0]), readable(rows[0]["total"]), *map(tokens, rows))
        for rows in zip(*(size["methods"] for size in sizes), strict=True)
    ]
    out.table(["method", f"at {found['length']:,} tokens", *(readable(size["memory"]) for size in sizes)], rows)
    out.print("Below a memory: the longest example that fits, in tokens. `--memory 8GB` shows what needs how much.")


def name(row: dict[str, Any]) -> str:
    return f"{row['method']}, {row['bits']} bits" if row["bits"] else str(row["method"])


def tokens(row: dict[str, Any]) -> str:
    return f"{row['longest']:,}" if row["longest"] else "–"


def verdict(row: dict[str, Any]) -> str:
    if not row["fits"]:
        return "no"
    host = ", activations in the host's memory" if row["offload"] else ""
    return f"yes, with gradient checkpointing{host}" if row["checkpointing"] else "yes"
