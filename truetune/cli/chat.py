"""`ft chat`: one answer, answers to lines of stdin, a conversation in the terminal, or a run's own held-out rows."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any

import click
from rich.text import Text

from truetune.api import load
from truetune.cli import common, visible
from truetune.cli.answers import beside, verbatim
from truetune.cli.common import Output
from truetune.cli.keyboard import unechoed
from truetune.cli.talk import Terminal, line, remarks
from truetune.errors import InputError, TrueTuneError, UsageError, together

DRAWING = (
    click.option("--temperature", type=float, metavar="X", help="0 = always the likeliest word."),
    click.option("--top-p", type=float, metavar="X", help="Only the likeliest words that make up this share."),
    click.option("--top-k", type=int, metavar="N", help="Only the N likeliest words; 0 = all."),
    click.option("--max-new-tokens", type=int, metavar="N", help="Longest answer."),
    click.option("--seed", type=int, metavar="N", help="The same seed gives the same answer."),
    click.option("--system", metavar="TEXT", help="A system message before the conversation."),
    click.option("--base", is_flag=True, help="Ask the model before training."),
    click.option("--checkpoint", metavar="NAME", help="best, last or step-N of the run."),
    common.device,
)

Greeting = Callable[[dict[str, Any]], Any]
BOTH = ("system", "base")
"""What makes no sense where both models answer rows as they were trained."""


def drawing(function: Callable[..., None]) -> Callable[..., None]:
    """Who answers, and how answers are drawn."""
    for option in reversed(DRAWING):
        function = option(function)
    return function


@click.command()
@click.argument("subject", default="last", metavar="[RUN|ADAPTER|MODEL]", shell_complete=common.complete_run)
@click.argument("prompt", required=False, metavar="[PROMPT]")
@click.option("--demo", is_flag=True, help="Held-out questions of the run, answered before and after training.")
@drawing
@common.options
def command(out: Output, subject: str, prompt: str | None, demo: bool, **options: Any) -> None:
    """Talk to a run (`last`, RUN:best), an adapter or a model. PROMPT: one answer; `-` reads it from stdin.

    Without PROMPT it is a conversation; where stdin is no terminal, each of its lines is a question of its own.
    Sampling comes with the run or the model unless an option says otherwise.
    """
    if any(map(str.isspace, subject)) and not Path(subject).exists():
        raise UsageError(
            "what is asked comes behind the name of a run, an adapter or a model",
            code="usage.invalid",
            where="ft chat",
            hint=f"To ask it of the last run: ft chat last {quote(subject)}.",
        )
    if demo:
        demonstrate(out, subject, prompt, options)
    elif prompt is not None:
        once(out, subject, prompt, options)
    elif not sys.stdin.isatty():
        lines(out, subject, options)
    else:
        converse(out, subject, options)


@click.command("test")
@click.argument("subject", metavar="NAME", shell_complete=common.complete_run)
@click.argument("prompt", metavar="PROMPT")
@drawing
@common.options
def test(out: Output, subject: str, prompt: str, **options: Any) -> None:
    """Ask NAME one question: the same as `ft chat NAME PROMPT`."""
    once(out, subject, prompt, options)


@contextmanager
def opened(
    out: Output, subject: str, options: dict[str, Any], greet: Greeting, *, alone: bool = False
) -> Iterator[Any]:
    """The talk; who answers is said before the engine loads, which takes seconds. `alone`: no prompt was given."""

    def known(facts: dict[str, Any]) -> None:
        out.document({"subject": facts})
        greet(facts)

    try:
        with waiting(out, "loading the model …", known) as watch:
            talk = load("chat")(subject, **given(options), watch=watch)
    except InputError as error:
        raise question_alone(subject, error) if alone else error from None
    with talk:
        if talk.voice.warning:
            out.note(f"note: {talk.voice.warning}", style="yellow")
        yield talk


@contextmanager
def waiting(out: Output, text: str, greet: Greeting) -> Iterator[Greeting]:
    """Gives what is to be told who answers; from then on the terminal shows that something is under way."""
    status = out.progress.status(Text(text, "dim"), spinner="dots")

    def watch(facts: dict[str, Any]) -> None:
        greet(facts)
        status.start()

    try:
        yield watch
    finally:
        status.stop()


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were typed."""
    return {name: value for name, value in options.items() if value is not None}


def once(out: Output, subject: str, prompt: str, options: dict[str, Any]) -> None:
    """One question, one answer; its text alone goes to stdout."""
    question = decoded(sys.stdin.buffer.read()).removesuffix("\n") if prompt == "-" else prompt
    asked = options | {"prompts": [question]}
    with opened(out, subject, asked, lambda facts: out.note(line(facts), style="dim")) as talk:
        out.document(answered(out, talk, question))


def lines(out: Output, subject: str, options: dict[str, Any]) -> None:
    """Each line of stdin is a question of its own: no answer knows of another. Those that cannot be answered are named
    at the end."""
    questions = Questions()

    def greet(facts: dict[str, Any]) -> None:
        questions.begin()
        out.note(line(facts), style="dim")

    answers: list[dict[str, Any]] = []
    failed: list[TrueTuneError] = []
    with opened(out, subject, options, greet, alone=True) as talk:
        out.document({"answers": answers})
        for number, raw in questions:
            try:
                answers.append(answered(out, talk, decoded(raw).rstrip("\r\n")) | {"line": number})
            except TrueTuneError as error:
                error.finding = replace(error.finding, where=f"line {number}")
                failed.append(error)
            talk.reset()
    if failed:
        raise together(failed)


class Questions:
    """The lines of stdin that are not blank, each with its number."""

    def __init__(self) -> None:
        self.lines = ((number, raw) for number, raw in enumerate(sys.stdin.buffer, 1) if raw.strip())
        self.first: tuple[int, bytes] | None = None

    def begin(self) -> None:
        """Wait for the first one. Raises UsageError `generation.empty` where stdin has none."""
        self.first = self.first or next(self.lines, None)
        if self.first is None:
            raise UsageError(
                "there is no question on stdin",
                code="generation.empty",
                where="stdin",
                hint='Write one question in each line, or ask: ft chat last "…".',
            )

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        if self.first:
            yield self.first
        yield from self.lines


def answered(out: Output, talk: Any, question: str) -> dict[str, Any]:
    """Write the answer to stdout as it comes; returns what the document says of it."""
    started = time.monotonic()
    for piece in talk.stream(question):
        out.console.print(Text(visible(piece)), end="")
    seconds, reply = time.monotonic() - started, talk.reply
    out.console.print()
    for text in remarks(talk, seconds, out.verbose):
        out.note(text, style="dim")
    return {
        "prompt": question,
        "answer": reply.text,
        "reason": reply.reason,
        "tokens": len(reply.ids),
        "seconds": round(seconds, 3),
        "seed": talk.seed if talk.voice.sampling(**talk.chosen).temperature else None,
    }


def demonstrate(out: Output, subject: str, prompt: str | None, options: dict[str, Any]) -> None:
    """The run's own held-out rows, before and after."""
    refused = "PROMPT" if prompt is not None else next((f"--{name}" for name in BOTH if options.pop(name)), None)
    if refused:
        raise UsageError(
            f"--demo asks the run's own questions of both models, without {refused}",
            code="usage.invalid",
            where="ft chat",
            hint=f"Leave out {refused}, or leave out --demo.",
        )
    with waiting(out, "asking both models …", lambda facts: out.note(line(facts), style="dim")) as watch:
        found = load("side_by_side")(subject, **given(options), watch=watch)
    out.document(found)
    texts = found["subject"]["speaks"] == "texts"
    beside(out, found["answers"], texts=texts)
    out.print("" if texts else f"\n{verbatim(found['answers'])}\n")


def converse(out: Output, subject: str, options: dict[str, Any]) -> None:
    """A conversation at the terminal."""
    if out.json:
        raise UsageError(
            "--json is for one answer, and a conversation has many",
            code="usage.invalid",
            where="ft chat",
            hint='Give a prompt (ft chat last "…" --json), --demo, or questions on stdin.',
        )
    terminal = Terminal(out)
    with ExitStack() as stack:
        with unechoed():
            talk = stack.enter_context(opened(out, subject, options, terminal.greet, alone=True))
        terminal.converse(talk)


def decoded(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise UsageError(
            "stdin is not valid UTF-8 text", code="generation.not_text", where="stdin", hint="Save it as UTF-8."
        ) from None


def question_alone(subject: str, error: InputError) -> InputError:
    """A single argument that names nothing is mostly a question."""
    found = error.finding
    if found.code != "run.missing" or subject.startswith(("last", ".", "/", "~")):
        return error
    hint = f"{found.hint}. To ask it of the last run: ft chat last {quote(subject)}"
    return InputError(found.message, code=found.code, where=found.where, hint=hint)
