"""What the verbs share: their options, and `Output`, the one way in which they speak.

    @click.command()
    @common.run_argument
    @common.options
    def command(out: Output, run: str) -> None:
        summary = run_show(run)
        out.document(summary)
        out.print(summary["id"], style="bold")

Results go to stdout, notes and progress to stderr. With `--json` stdout carries the document alone, which
`truetune.cli.run` writes when the verb has ended: an error raised after `document(...)` stands in the same document.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from truetune import paths
from truetune.api.wanted import device as known_device
from truetune.cli import visible
from truetune.errors import UsageError

PIPE_WIDTH = 160
"""Columns of a table that goes into a file or a pipe, where nobody sees it wrapped."""


class Screen(Console):
    """A console whose reader may leave (`| head`): the rest goes nowhere, and what the verb does goes on."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


class Output:
    """Where a verb writes: a document for programs, tables and text for people, notes on stderr."""

    def __init__(self, document: dict[str, Any], *, json: bool = False, quiet: bool = False, verbose: int = 0) -> None:
        self.json = json
        self.quiet = quiet
        self.verbose = verbose
        self.console = Screen(
            quiet=json, highlight=False, emoji=False, soft_wrap=True, width=None if sys.stdout.isatty() else PIPE_WIDTH
        )
        self.progress = Screen(stderr=True, quiet=quiet, highlight=False, emoji=False, soft_wrap=True)
        self._document = document

    def document(self, body: Mapping[str, Any]) -> None:
        """The verb's result for `--json`; a second call adds keys to the same document."""
        self._document.update(body)

    def print(self, *objects: Any, style: str | None = None, markup: bool = False) -> None:
        """Text or rich renderables to stdout, unless `--json`. Text is printed as it is: `markup` is for our own."""
        self.console.print(*map(_safe, objects), style=style, markup=markup)

    def note(self, *objects: Any, style: str | None = None) -> None:
        """Text or rich renderables to stderr, unless `--quiet`."""
        self.progress.print(*map(_safe, objects), style=style, markup=False)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None) -> None:
        """A plain table to stdout, unless `--json`. Cells are text or rich renderables."""
        table = Table(
            title=title, title_justify="left", box=None, pad_edge=False, header_style="bold", show_header=any(columns)
        )
        for column in columns:
            table.add_column(column)
        for row in rows:
            table.add_row(*(cell if hasattr(cell, "__rich_console__") else _text(cell) for cell in row))
        self.console.print(table)

    def lines(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """A table of short texts to stdout, unless `--json`, without measuring each as a terminal shows it: ten
        thousand rows at once."""
        if self.console.quiet:
            return
        texts = [tuple(columns), *(tuple(map(visible, row)) for row in rows)]
        widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
        lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in texts)
        self.console.out("\n".join(lines), highlight=False)


def _safe(thing: Any) -> Any:
    """Text that cannot steer the terminal; renderables as they are (a verb that builds one calls `visible`)."""
    return visible(thing) if isinstance(thing, str) else thing


def _text(cell: Any) -> Text:
    """A cell's text without rich's markup, so that `[red]` in somebody's data stays what it is."""
    return Text("" if cell is None else visible(str(cell)))


class Standard(click.Group):
    """A group one of whose verbs, `standard`, may be left out: `ft receipt last` is `ft receipt show last`."""

    def __init__(self, *args: Any, standard: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.standard = standard

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or args[0] not in (*self.commands, *ctx.help_option_names):
            args = [self.standard, *args]
        return super().parse_args(ctx, args)


def options(function: Callable[..., None]) -> Callable[..., None]:
    """`--json`, `--quiet`, `-v`, `--debug`: the verb gets them as its first argument, an `Output`."""

    @functools.wraps(function)
    def verb(*, json: bool, quiet: bool, verbose: int, **values: Any) -> None:
        document = click.get_current_context().obj
        function(Output({} if document is None else document, json=json, quiet=quiet, verbose=verbose), **values)

    return _json(_quiet(_verbose(_debug(verb))))


_json = click.option("--json", is_flag=True, help="One JSON document on stdout, for programs.")
_quiet = click.option("-q", "--quiet", is_flag=True, help="No notes and no progress, results only.")
_verbose = click.option("-v", "--verbose", count=True, help="More detail.")
_debug = click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")

overrides = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one value of train.yml; may be repeated."
)


def _device(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Refused before anything is looked for or loaded."""
    return None if value is None else known_device(value)


device = click.option("--device", metavar="DEVICE", callback=_device, help="cpu, cuda, cuda:N, mps or auto.")
dry_run = click.option("--dry-run", is_flag=True, help="Check and show everything, change nothing.")


def complete_run(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Names of runs in the working folder, for the shell's Tab."""
    names = sorted((entry.name for entry in paths.runs().glob("*") if entry.is_dir()), reverse=True)
    return [name for name in ("last", *names) if name.startswith(incomplete)]


run_argument = click.argument("run", default="last", metavar="[RUN]", shell_complete=complete_run)


def pairs(texts: Sequence[str]) -> dict[str, str]:
    """`prompt=frage,response=antwort`, or one pair per option."""
    found = {}
    for text in ",".join(texts).split(",") if texts else ():
        ours, _, yours = map(str.strip, text.partition("="))
        if not ours or not yours:
            raise UsageError(
                f"`{text}` does not say which column is which",
                code="usage.bad_value",
                where="--columns",
                hint="Write our name, then yours: --columns prompt=frage,response=antwort.",
            )
        found[ours] = yours
    return found
