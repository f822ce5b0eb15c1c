"""`ft dataset`: check, prepare, show, convert and augment rows before a minute is spent on training."""

from __future__ import annotations

import click

from truetune.cli.dataset.augment import augment
from truetune.cli.dataset.check import check
from truetune.cli.dataset.convert import convert
from truetune.cli.dataset.prepare import prepare
from truetune.cli.dataset.show import show


@click.group()
def command() -> None:
    """Rows before training: what is wrong with them, and what a model will learn."""


for verb in (check, prepare, show, convert, augment):
    command.add_command(verb)
