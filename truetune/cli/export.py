"""`ft export`: what was trained, as mlx_lm or PEFT loads it, checked against what was trained."""

from __future__ import annotations

from shlex import quote
from typing import Any

import click

from truetune.api import load
from truetune.cli import common
from truetune.cli.common import Output


@click.command()
@click.argument("subject", default="last", metavar="[RUN|ADAPTER|MODEL]", shell_complete=common.complete_run)
@click.option("--format", required=True, metavar="FORMAT", help="mlx (as mlx_lm loads it), peft, or merged.")
@click.option(
    "--out", "place", type=click.Path(), metavar="DIR", help="A new folder. Of a run, by default, exports/FORMAT."
)
@click.option("--base", metavar="MODEL", help="The model of an adapter that mlx_lm made, if its files do not say.")
@common.options
def command(out: Output, subject: str, format: str, place: str | None, base: str | None) -> None:
    """Write an adapter or a model for another program, and compare what that computes with what was trained.

    An adapter that mlx_lm made comes the other way: ft export ./FOLDER --format peft --out DIR. Exit code 1, and
    nothing written, where the two compute differently.
    """
    with out.progress.status("writing and comparing …"):
        found = load("export")(subject, format=format, out=place, base=base)
    out.document(found)
    for line in lines(found):
        out.print(line)


def lines(found: dict[str, Any]) -> list[str]:
    parity, what = found["parity"], "adapter" if found["adapter"] and found["format"] != "merged" else "model"
    told = [
        f"{what:<9} {found['folder']}",
        f"checked   {parity['second']} computes what {parity['first']} did: the log-probabilities of "
        f"{parity['tokens']} tokens lie at most {parity['largest']:.1g} apart ({parity['tolerance']:g} is allowed)",
    ]
    if stored := found["stored"]:
        who = (
            "mlx_lm computes in the type of the stored weights" if found["format"] == "mlx" else "stored as its base is"
        )
        told.append(
            f"note      {who}, {stored['dtype']}: at most {stored['largest']:.1g} apart from float32, on average "
            f"{stored['mean']:.1g}"
        )
    return told + ([f"next      {generate(found)}"] if found["format"] == "mlx" else [])


def generate(found: dict[str, Any]) -> str:
    """What to type next."""
    adapter = f" --adapter-path {quote(found['folder'])}" if found["adapter"] else ""
    return f'mlx_lm.generate --model {quote(found["model"])}{adapter} --prompt "…"'
