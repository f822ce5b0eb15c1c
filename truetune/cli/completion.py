"""`ft completion`: the script that gives a shell Tab completion for `ft`."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, FishComplete, ZshComplete

from truetune.cli import common
from truetune.cli.common import Output

SHELLS = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}


@click.command()
@click.argument("shell", type=click.Choice(list(SHELLS)))
@common.options
def command(out: Output, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash:  ft completion bash >> ~/.bashrc
    zsh:   ft completion zsh >> ~/.zshrc
    fish:  ft completion fish > ~/.config/fish/completions/ft.fish
    """
    root = click.get_current_context().find_root().command
    script = SHELLS[shell](root, {}, "ft", "_FT_COMPLETE").source()
    out.document({"shell": shell, "script": script})
    if not out.json:
        click.echo(script)
