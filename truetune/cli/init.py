"""`ft init`: write a commented train.yml."""

from __future__ import annotations

import click

from truetune.api.config import init
from truetune.cli import common
from truetune.cli.common import Output


@click.command("init")
@click.option("--model", default="starter", show_default=True, help="`starter`, a hub id or a folder.")
@click.option("--data", default="data.jsonl", show_default=True, help="The file with your rows.")
@click.option("--out", "file", default="train.yml", show_default=True, help="The file to write.")
@click.option("--profile", metavar="NAME", help="Defaults: chat, instruction, code, classification, small-gpu.")
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
@common.options
def command(out: Output, model: str, data: str, file: str, profile: str | None, force: bool) -> None:
    """Write a commented train.yml for a model and data."""
    path = init(model, data, file, profile=profile, force=force)
    out.document({"path": str(path), "model": model, "data": data, "profile": profile})
    out.print(f"wrote {path}")
    out.note(f"look it over, then: ft train {path} --dry-run")
