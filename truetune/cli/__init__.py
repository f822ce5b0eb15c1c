"""The `ft` command: the table of its verbs, and the one place where errors become sentences and exit codes.

A verb is a row of `VERBS` and a file beside this one that holds `command`. The file is imported only when its verb
is called, so `ft --help` costs little more than importing click.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import json
import math
import os
import re
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, NoReturn

import click

from truetune import __version__
from truetune.errors import Forced, InputError, ResourceError, TrueTuneError, UsageError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

VERBS = {
    "train": ("truetune.cli.train:command", "Fine-tune a model as train.yml says."),
    "evaluate": ("truetune.cli.evaluate:command", "Measure base against tuned on held-out rows."),
    "demo": ("truetune.cli.demo:command", "A small real fine-tune on the bundled starter model."),
    "chat": ("truetune.cli.chat:command", "Talk to a run, an adapter or a model."),
    "test": ("truetune.cli.chat:test", "Ask one question: `ft chat NAME PROMPT`."),
    "export": ("truetune.cli.export:command", "Write an adapter or a model for mlx_lm or PEFT, and check it."),
    "benchmark": ("truetune.cli.benchmark:command", "Measure how fast and how well models answer."),
    "serve": ("truetune.cli.serve:command", "Serve adapters of one base by OpenAI's protocol."),
    "shell": ("truetune.cli.shell:command", "All verbs at one prompt, with a model in memory."),
    "init": ("truetune.cli.init:command", "Write a commented train.yml for a model and data."),
    "config": ("truetune.cli.config:command", "Show, edit or describe a train.yml."),
    "dataset": ("truetune.cli.dataset:command", "Check, prepare, show and convert rows."),
    "models": ("truetune.cli.models:command", "Search, pull, list and remove models; what fits where."),
    "adapters": ("truetune.cli.adapters:command", "Adapters by name and version: list, compare, promote."),
    "runs": ("truetune.cli.runs:command", "List, show, stop and prove runs."),
    "receipt": ("truetune.cli.receipt:command", "Show what a run learned from, or verify it."),
    "status": ("truetune.cli.status:command", "What this machine and its runs are doing."),
    "doctor": ("truetune.cli.doctor:command", "Say what this machine has and what is missing."),
    "completion": ("truetune.cli.completion:command", "Print the completion script of a shell."),
}
"""Verb -> where its command stands, and its line in `ft --help`."""

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""What the system says where nothing more can be written."""
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Verbs(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module, _, name = VERBS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in VERBS and not args[0].startswith("-"):
            raise unknown_verb(args[0])
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, text) for name, (_, text) in VERBS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        names = [CompletionItem(name, help=text) for name, (_, text) in VERBS.items() if name.startswith(incomplete)]
        return names or click.Command.shell_complete(self, ctx, incomplete)


@click.group(cls=Verbs, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="truetune", message="%(prog)s %(version)s")
@click.pass_context
def group(ctx: click.Context) -> None:
    """Fine-tune language models on the machine you have, with a receipt for every row.

    `ft demo` shows a whole run in a minute; `ft init` writes a train.yml for your own model and data.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main() -> NoReturn:
    """The entry point of `ft`."""
    sys.exit(run(sys.argv[1:]))


def run(args: Sequence[str]) -> int:
    """Run one command line and return its exit code; what the user sees is on stdout and stderr.

    The verb leaves its JSON document in `document` (see `common.Output`) and it is written here, at the end, so that
    there is exactly one, an error included.
    """
    flags = args[: args.index("--")] if "--" in args else args
    document: dict[str, Any] = {}
    try:
        code = invoke(args, document)
    except Exception as raised:
        error = explain(raised)
        if "--debug" in flags:
            traceback.print_exception(raised)
        if "--json" in flags:
            document["error"] = error.to_json()
        else:
            click.echo(block(error), err=True)
        code = error.exit_code
    if "--json" in flags and document:
        code = written(document, code)
    return code


def written(document: dict[str, Any], code: int) -> int:
    """Write the document; where stdout takes none of it, say so, and that is the exit code."""
    try:
        write(document)
    except OSError as raised:
        error = explain(raised)
        click.echo(block(error), err=True)
        return error.exit_code
    return code


def invoke(args: Sequence[str], document: dict[str, Any]) -> int:
    """Hand the line to click; its exit code (`ctx.exit(1)`), else 0."""
    if sys.platform == "win32":
        raise UsageError(
            "TrueTune runs on Linux and macOS, not on Windows itself",
            code="usage.windows",
            hint="install it inside WSL (Windows Subsystem for Linux) and run it there",
        )
    code = group.main(list(args), prog_name="ft", standalone_mode=False, obj=document)
    return code if isinstance(code, int) else 0


def write(document: dict[str, Any]) -> None:
    """One JSON document on stdout: always valid UTF-8, never a NaN."""
    text = json.dumps(plain({"schema": 1, **document}), indent=2, ensure_ascii=False, allow_nan=False)
    try:
        click.echo(text.encode("utf-8", "backslashreplace"))
        sys.stdout.flush()
    except BrokenPipeError:
        hush()


def hush() -> None:
    """What is left for stdout goes nowhere, or Python complains when it flushes it at the exit."""
    with suppress(OSError, ValueError):  # a stream without a file, as tests have it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def plain(value: Any) -> Any:
    """`value` in JSON's own types: paths become text, dataclasses mappings, NaN and infinity null."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, PurePath) else value


def block(error: TrueTuneError) -> str:
    """The findings as lines for people."""
    lines = []
    for finding in error.findings:
        lines.append(f"error: {finding}")
        if finding.hint:
            lines.append(f"hint: {finding.hint}")
    return visible("\n".join(lines))


def visible(text: str) -> str:
    """`text` with what would steer a terminal (escape sequences, reversed writing) shown instead of obeyed."""
    return STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def explain(raised: Exception) -> TrueTuneError:
    """Whatever went wrong as one of our errors. What nobody foresaw is a bug, and is called one."""
    if isinstance(raised, TrueTuneError):
        return raised
    if isinstance(raised, click.exceptions.Abort):
        return Forced("stopped", code="stopped.forced", hint="nothing was left half-made; run it again")
    if isinstance(raised, click.ClickException):
        return usage(raised)
    if isinstance(raised, MemoryError):
        return ResourceError(
            "there is not enough memory", code="memory.exhausted", hint="`ft doctor` shows what is free"
        )
    if isinstance(raised, OSError) and (raised.filename or raised.errno in FULL):
        return unreadable(raised)
    return TrueTuneError(
        f"this is a bug in TrueTune ({type(raised).__name__}: {raised})",
        code="bug",
        hint="run again with --debug to see where, and report it with that output",
    )


def unreadable(raised: OSError) -> TrueTuneError:
    """A file that the system does not let us read or write, and nobody caught closer to it."""
    reason, where = (raised.strerror or str(raised)).lower(), str(raised.filename or "")
    if raised.errno in FULL:
        hush()  # it may be stdout that is full
        return ResourceError(reason, code="disk.full", where=where, hint="free some space and run again")
    return InputError(
        reason, code="file.unusable", where=where, hint="check that the file is there and its permissions"
    )


def unknown_verb(name: str) -> UsageError:
    near = difflib.get_close_matches(name, VERBS, n=1)
    hint = f"did you mean `ft {near[0]}`?" if near else "`ft --help` lists the verbs"
    return UsageError(f"there is no verb `{name}`", code="usage.unknown_verb", where="ft", hint=hint)


def usage(raised: click.ClickException) -> UsageError:
    """click's complaint about a command line, in the words of our errors."""
    ctx = raised.ctx if isinstance(raised, click.UsageError) else None
    where = ctx.command_path if ctx else "ft"
    hint = f"`{where} --help` lists what it takes"
    message = " ".join(raised.format_message().split()).rstrip(".")
    if isinstance(raised, click.NoSuchOption):
        hint = f"did you mean {' or '.join(raised.possibilities)}?" if raised.possibilities else hint
        return UsageError(
            f"there is no option {raised.option_name}", code="usage.unknown_option", where=where, hint=hint
        )
    if isinstance(raised, click.exceptions.NoArgsIsHelpError) and ctx and isinstance(ctx.command, click.Group):
        hint = f"one of: {', '.join(ctx.command.list_commands(ctx))}"
        return UsageError("a verb is missing", code="usage.missing", where=where, hint=hint)
    if isinstance(raised, click.MissingParameter):
        return UsageError(message, code="usage.missing", where=where, hint=hint)
    if isinstance(raised, click.BadParameter):
        return UsageError(message, code="usage.bad_value", where=where, hint=hint)
    return UsageError(message, code="usage.invalid", where=where, hint=hint)
