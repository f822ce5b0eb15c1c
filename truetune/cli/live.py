"""`ft adapters load`, `switch` and `unload`: adapters of a server that runs."""

from __future__ import annotations

from collections.abc import Callable

import click

from truetune.api.serve import adapter_load, adapter_switch, adapter_unload
from truetune.cli import common
from truetune.cli.common import Output

SERVER = "http://127.0.0.1:8000"

server = click.option("--server", default=SERVER, show_default=True, metavar="URL", help="What `ft serve` printed.")
key = click.option("--key", metavar="KEY", help="Its key; else TRUETUNE_API_KEY, or server.api_key in passwords.yml.")
adapter = click.argument("adapter", metavar="ADAPTER")


def to_server(function: Callable[..., None]) -> Callable[..., None]:
    """The options of a verb that speaks to a server."""
    return server(key(common.options(function)))


@click.command()
@adapter
@click.option("--name", help="What requests call it; without one as it is typed here.")
@to_server
def load(out: Output, adapter: str, name: str | None, server: str, key: str | None) -> None:
    """Have a running server serve ADAPTER: a registered one, a run, or a folder that the server allows."""
    say(out, adapter_load(adapter, name=name, server=server, key=key))


@click.command()
@adapter
@click.option("--name", help="The name to point to it; without one its own without the version.")
@to_server
def switch(out: Output, adapter: str, name: str | None, server: str, key: str | None) -> None:
    """Point a name of a running server to ADAPTER: `switch support@4` lets `support` mean version 4 from now on.

    Answers that are being written go on with the version they began with.
    """
    say(out, adapter_switch(adapter, name=name, server=server, key=key))


@click.command()
@click.argument("name", metavar="NAME")
@to_server
def unload(out: Output, name: str, server: str, key: str | None) -> None:
    """Have a running server forget NAME; answers that are being written go on."""
    say(out, adapter_unload(name, server=server, key=key))


def say(out: Output, text: str) -> None:
    out.document({"said": text})
    out.print(text)
