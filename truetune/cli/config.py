"""`ft config`: show, create, edit or describe a train.yml."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from truetune.api import config as api
from truetune.cli import block, common
from truetune.cli import init as create
from truetune.cli.common import Output
from truetune.config.write import flat, inline
from truetune.errors import ConfigErrors

file_argument = click.argument("path", default="train.yml", metavar="[FILE]")


@click.group("config")
def command() -> None:
    """Show, create, edit or describe a train.yml."""


command.add_command(create.command, "create")


@command.command("show")
@file_argument
@common.overrides
@common.options
def show(out: Output, path: str, overrides: tuple[str, ...]) -> None:
    """Every value of a train.yml, and where it was written."""
    shown = api.config_show(path, overrides)
    out.document(shown)
    out.table(["key", "value", "from"], rows(shown["values"], shown["sources"]))


def rows(values: dict[str, Any], sources: dict[str, str]) -> list[tuple[str, str, str]]:
    """Dotted key, value as YAML, source; nothing for a default."""
    return [(key, inline(value), sources.get(key, "")) for key, value in flat(values).items()]


@command.command("edit")
@file_argument
@common.overrides
@common.options
def edit(out: Output, path: str, overrides: tuple[str, ...]) -> None:
    """Change a train.yml: with --set, comments kept, or in your editor. Only a valid file is put in place."""
    loaded = api.config_edit(path, overrides, again=ask if sys.stdin.isatty() and not out.json else None)
    out.document({"path": path, "values": loaded.config.model_dump(mode="json")})
    out.print(f"{path} is valid")


def ask(errors: ConfigErrors) -> bool:
    """Show what is wrong; true to edit again, false to keep the old file."""
    click.echo(block(errors), err=True)
    return click.confirm("Edit again? (no keeps the old file)", default=True, err=True)


@command.command("schema")
@common.options
def schema(out: Output) -> None:
    """The JSON Schema of train.yml, for editors."""
    document = api.config_schema()
    out.document({"json_schema": document})
    out.print(json.dumps(document, indent=2, ensure_ascii=False))
