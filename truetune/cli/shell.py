"""`ft shell`: the verbs at one prompt, with a base that stays in memory while adapters are switched."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import click
from rich.text import Text

from truetune import cli
from truetune.api import load
from truetune.cli import block, common, explain, sayings, visible
from truetune.cli.common import Output
from truetune.cli.keyboard import completing, heard, history, marked, stoppable, unechoed
from truetune.errors import TrueTuneError, UsageError


@click.command()
@common.device
@common.options
def command(out: Output, device: str | None) -> None:
    """All verbs at one prompt; a base stays in memory, and adapters are switched. `help` lists what can be typed.

    Where stdin is no terminal its lines are carried out, up to the first that fails.
    """
    if out.json:
        raise UsageError(
            "--json is for one result, and a shell has many",
            code="usage.invalid",
            where="ft shell",
            hint="Call the verbs by themselves: ft adapters list --json.",
        )
    shell = Shell(out, load("open_session")(device or "auto"))
    try:
        if sys.stdin.isatty():
            shell.converse()
        else:
            shell.obey(sys.stdin.buffer)
    finally:
        shell.session.close()


class Shell:
    """What is typed, carried out."""

    def __init__(self, out: Output, session: Any) -> None:
        self.out, self.session = out, session

    def converse(self) -> None:
        """Line after line; nothing that goes wrong ends it."""
        self.note("help lists what can be typed · Ctrl-C stops what runs · Ctrl-D ends")
        with history("shell_history"), completing(self.complete):
            while (line := self.read()) is not None:
                if self.carry_out(line) is None:
                    return
        self.out.print()

    def obey(self, lines: Any) -> None:
        """The lines of a script; the exit code is that of the first that fails."""
        for raw in lines:
            code = self.carry_out(raw.decode("utf-8", "replace").rstrip("\r\n"))
            if code is None:
                return
            if code:
                click.get_current_context().exit(code)

    def read(self) -> str | None:
        """The next line; None where the person leaves. Ctrl-C begins a new one."""
        while True:
            try:
                with heard():
                    return input(self.label())
            except EOFError:
                return None
            except KeyboardInterrupt:
                self.out.print()
            except UnicodeDecodeError:
                self.note("That was not UTF-8 text; type it again.")

    def label(self) -> str:
        facts = self.session.describe()
        text = f"{facts['active'] or facts['base'] or 'ft'} › "
        if self.out.console.color_system is None:
            return text
        return marked("\x1b[1;36m") + text + marked("\x1b[0m")

    def carry_out(self, line: str) -> int | None:
        """One line; its exit code, or None where it was the last."""
        word, _, rest = line.strip().partition(" ")
        if not word or word.startswith("#"):
            return 0
        if word in ("exit", "quit"):
            return None
        try:
            if word in sayings.HERE or (word, rest.strip()) == ("list", "loaded"):
                getattr(self, f"do_{word}")(rest.strip())
                return 0
            return cli.run(sayings.meant(sayings.split(line), self.session.active))
        except (TrueTuneError, OSError, KeyboardInterrupt) as raised:
            error = explain(raised if isinstance(raised, Exception) else click.exceptions.Abort())
            click.echo(block(error), err=True)
            return error.exit_code

    def do_load(self, rest: str) -> None:
        name = self.named(rest, "load")
        self.note("loading …")
        found = load("load_into")(self.session, name)
        opened = f"{found['base']} is in memory; " if found["opened"] else ""
        self.out.print(f"{opened}{found['name']} answers from now on")

    def do_switch(self, rest: str) -> None:
        name = self.named(rest, "switch")
        if name == "base":
            self.session.switch(None)
        elif name in self.session.describe()["adapters"]:
            self.session.switch(name)
        else:
            self.do_load(name)
            return
        facts = self.session.describe()
        self.out.print(f"{facts['active'] or facts['base'] or 'nothing'} answers from now on")

    def do_unload(self, rest: str) -> None:
        name = self.named(rest, "unload")
        self.session.unload(name)
        self.out.print(f"{name} is forgotten")

    def named(self, rest: str, verb: str) -> str:
        """The one name behind a word; `load adapter NAME` is the same as `load NAME`."""
        words = sayings.split(rest)
        words = words[1:] if len(words) == 2 and words[0] == "adapter" else words
        if len(words) != 1:
            raise sayings.missing(f"{verb} NAME")
        return words[0]

    def do_test(self, rest: str) -> None:
        """All behind the word is asked, quotes around it left out."""
        quoted = len(rest) > 1 and rest[0] == rest[-1] and rest[0] in "\"'"
        answer = self.session.ask(rest[1:-1] if quoted else rest)
        with unechoed(), stoppable() as stopped:
            for piece in answer:
                self.out.console.print(Text(visible(piece)), end="", soft_wrap=True)
                if stopped():
                    answer.close()
                    break
        self.out.print()
        if answer.reply.reason != "stop":
            self.note("(stopped)" if answer.reply.reason == "cut" else "(cut: the longest answer that it gives)")

    def do_list(self, rest: str) -> None:
        facts = self.session.describe()
        if not facts["base"]:
            self.out.print("Nothing is in memory yet: load NAME.")
        rows = [("base", facts["base"]), *(("adapter", name) for name in facts["adapters"])] if facts["base"] else []
        shown = facts["active"] or facts["base"]
        self.out.table(("", "", ""), [(kind, name, "answers" if name == shown else "") for kind, name in rows])

    def do_status(self, rest: str) -> None:
        self.do_list(rest)
        cli.run(["status", *sayings.split(rest)])

    def do_help(self, rest: str) -> None:
        if not rest:
            self.out.table(("", ""), sayings.OWN.items())
            self.note(f"and every verb of ft: {', '.join(word for word in cli.VERBS if word != 'shell')}")
            return
        words = sayings.split(rest)
        own = next((form for form in sayings.OWN if form.split()[0] == words[0]), None)
        if own:
            self.out.print(f"{own}\n  {sayings.OWN[own]}")
        if words[0] in cli.VERBS and words[0] not in sayings.HERE:
            cli.run([*words, "--help"])
        elif own is None:
            raise sayings.unknown(words[0])

    def do_clear(self, rest: str) -> None:
        self.out.console.clear()

    def complete(self, line: str, text: str) -> list[str]:
        return sayings.completed(line, text, self.names)

    def names(self) -> Iterator[str]:
        """What can be loaded: adapters with their versions, runs, the starter, and the base that stands."""
        yield from ("starter", "last", "base")
        for entry in load("adapters_list")():
            yield from (entry["name"], entry["address"])
        yield from common.complete_run(click.get_current_context(), command.params[0], "")

    def note(self, text: str) -> None:
        self.out.console.print(Text(visible(text), "dim"), soft_wrap=False)
