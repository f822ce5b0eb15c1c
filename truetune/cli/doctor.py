"""`ft doctor`: what this machine has and what is missing, as a table."""

from __future__ import annotations

import click

from truetune.api.doctor import doctor
from truetune.cli import common
from truetune.cli.common import Output

MARKS = {"ok": "✓", "absent": "–", "bad": "✗"}


@click.command()
@common.options
@click.pass_context
def command(ctx: click.Context, out: Output) -> None:
    """Say what this machine has, what is missing, and what to do. Exit code 1 where something needed is missing."""
    report = doctor()
    out.document(report)
    rows = [(MARKS[check["state"]], check["name"], check["value"], check["hint"]) for check in report["checks"]]
    out.table(["", "", "", "what to do"] if any(row[3] for row in rows) else ["", "", "", ""], rows)
    ctx.exit(0 if report["ok"] else 1)
