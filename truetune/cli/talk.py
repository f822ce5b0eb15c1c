"""A conversation at a terminal: the header, the line that is typed, the answer as it comes, and the commands."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.text import Text

from truetune.cli import block, explain, visible
from truetune.cli.common import Output
from truetune.cli.keyboard import heard, history, marked, stoppable, unechoed
from truetune.errors import TrueTuneError
from truetune.report import words

JOINER = "\N{ZERO WIDTH JOINER}"
LABEL = 7
"""Columns of who speaks."""
COMMANDS = {
    "/help": "this list",
    "/base": "ask the model before training the same question",
    "/reset": "forget the conversation",
    "/system TEXT": "begin the conversation with a system message; without TEXT with none",
    "/temperature X": "freedom of the choice of words, 0 = none; also /top-p /top-k /max-new-tokens",
    "/seed N": "the same seed gives the same answer; without N another one for each answer",
    "/save FILE": "add the conversation to a .jsonl file that `ft train` can read",
    "/exit": "or Ctrl-D",
}
DRAWN = ("temperature", "top-p", "top-k", "max-new-tokens", "seed")


def line(facts: dict[str, Any]) -> str:
    """Who answers, in a line: `starter, tuned by 2026… (step 195) · temperature 0, at most 64 tokens`."""
    return f"{speaker(facts)} · {sampling(facts['sampling'])}"


def speaker(facts: dict[str, Any]) -> str:
    if not facts["tuned"]:
        return str(facts["name"])
    step = f", step {facts['step']}" if facts["step"] is not None else ""
    tuned = f"{facts['base']} tuned by {facts['name']}{step}"
    return {"tuned": tuned, "both": f"{tuned}, and before", "base": f"{facts['base']} before {facts['name']}"}[
        facts["asked"]
    ]


def sampling(chosen: dict[str, Any]) -> str:
    """`temperature 0.7, top_p 0.9, at most 64 tokens`; what has no effect is left out."""
    parts = [f"temperature {chosen['temperature']:g}"]
    if chosen["temperature"]:
        parts += [f"top_p {chosen['top_p']:g}"] if chosen["top_p"] < 1 else []
        parts += [f"top_k {chosen['top_k']}"] if chosen["top_k"] else []
        parts += [f"seed {chosen['seed']}"] if chosen.get("seed") is not None else []
    return ", ".join([*parts, f"at most {words.counted(chosen['max_new_tokens'], 'token')}"])


def remarks(talk: Any, seconds: float, verbose: int) -> Iterator[str]:
    """What is worth saying after an answer."""
    reply, length = talk.reply, words.counted(len(talk.reply.ids), "token")
    if not reply.text.strip():
        yield "(an empty answer)" if reply.reason != "cut" else "(stopped before the first word)"
    elif reply.reason == "length":
        yield f"(cut after {length}: --max-new-tokens allows more)"
    elif reply.reason == "cut":
        yield "(stopped)"
    if verbose:
        voice = talk.voice
        seed = f"seed {talk.seed}, " if voice.sampling(**talk.chosen).temperature else ""
        yield f"({seed}{length} in {seconds:.1f} s on {voice.choice.device} with {voice.engine})"


class Terminal:
    """The conversation as a person sees it. Nothing that goes wrong with a question ends it."""

    def __init__(self, out: Output) -> None:
        self.out, self.facts = out, dict[str, Any]()
        self.dropped = 0

    def greet(self, facts: dict[str, Any]) -> None:
        """Who answers, and how. Said before the engine loads."""
        self.facts = facts
        self.out.print()
        self.note(speaker(facts), "bold")
        self.note(sampling(facts["sampling"]))
        if facts["speaks"] == "texts":
            self.note("It was trained on texts, not on conversations: it goes on with what you write.")
        self.note("/help lists the commands · Ctrl-C stops an answer · Ctrl-D ends")
        self.out.print()

    def converse(self, talk: Any) -> None:
        """Questions and answers until the person leaves."""
        with history("chat_history"):
            while (typed := self.read()) is not None:
                try:
                    if not self.take(talk, typed):
                        return
                except (TrueTuneError, OSError) as error:
                    self.complain(error)
        self.out.print()

    def read(self) -> str | None:
        """What the person types; a backslash at the end of a line goes on in the next. None = they leave."""
        typed, label = "", self.label("text" if self.facts["speaks"] == "texts" else "you", "1;36")
        while True:
            try:
                with heard():
                    part = input(label)
            except (EOFError, KeyboardInterrupt):
                return None
            except UnicodeDecodeError:
                self.note("That was not UTF-8 text; type it again.")
                return ""
            if not part.endswith("\\"):
                return typed + part
            typed, label = typed + part[:-1] + "\n", " " * (LABEL - 1) + "… "

    def label(self, name: str, style: str) -> str:
        text = f"{name:<{LABEL - 2}} › "
        if self.out.console.color_system is None:
            return text
        return marked(f"\x1b[{style}m") + text + marked("\x1b[0m")

    def take(self, talk: Any, typed: str) -> bool:
        """A question or a command; False where the person leaves."""
        text = typed.strip()
        if text.startswith("//"):
            self.answer(talk, text[1:])
        elif text.startswith("/"):
            return self.command(talk, *text.partition(" ")[::2])
        elif text:
            self.answer(talk, typed)
        return True

    def answer(self, talk: Any, question: str) -> None:
        tuned = self.facts["asked"] == "tuned"
        self.write(talk, talk.stream(question), "tuned" if tuned else "base", "bold green" if tuned else "bold yellow")
        if talk.start > self.dropped:
            self.note("(the context is full: the oldest messages are no longer seen; /reset begins anew)")
        self.dropped = talk.start
        self.out.print()

    def write(self, talk: Any, pieces: Iterator[str], name: str, style: str) -> None:
        """An answer as it comes. Ctrl-C ends it here; a second one leaves."""
        started, width = time.monotonic(), shutil.get_terminal_size().columns
        flow = Flow(width, LABEL + 1)
        with unechoed(), stoppable() as stopped:
            for number, piece in enumerate(pieces):
                if not number:  # only now is it certain that there is an answer
                    self.put(Text(f"{name:<{LABEL - 2}} › ", style))
                self.put(Text(flow.add(visible(piece))))
                if stopped():
                    pieces.close()  # type: ignore[attr-defined]
                    break
        self.put(Text(flow.end() + "\n"))
        for text in remarks(talk, time.monotonic() - started, self.out.verbose):
            self.note(" " * (LABEL + 1) + text)

    def command(self, talk: Any, name: str, rest: str) -> bool:
        """Carry out `/name rest`; False where it was /exit."""
        rest, option = rest.strip(), name.removeprefix("/")
        if option in ("exit", "quit", "q"):
            return False
        if option in DRAWN:
            self.draw(talk, option, rest)
        elif option == "base":
            self.base(talk)
        elif option == "reset":
            talk.reset()
            self.dropped = 0
            self.note("The conversation begins anew.")
        elif option == "system":
            talk.system = rest or None
            self.note("The conversation has this system message now." if rest else "There is no system message.")
        elif option == "save":
            self.save(talk, rest)
        else:
            if option != "help":
                self.note(f"There is no command {name}; // begins a question with a slash.")
            self.out.table(["", ""], COMMANDS.items())
        self.out.print()
        return True

    def draw(self, talk: Any, option: str, value: str) -> None:
        """Change how answers are drawn; without a value as it was in the beginning."""
        name = option.replace("-", "_")
        try:
            number = (float if option in ("temperature", "top-p") else int)(value) if value else None
        except ValueError:
            self.note(f"/{option} takes a number, not {value}.")
            return
        talk.choose(**{name: number})
        drawn = talk.voice.sampling(**talk.chosen)
        seed = talk.chosen.get("seed")
        self.note(sampling(asdict(drawn) | {"seed": seed}))

    def base(self, talk: Any) -> None:
        if self.facts["asked"] == "base":
            self.note("It is the model before training that answers here.")
            return
        self.write(talk, talk.again(), "base", "bold yellow")

    def save(self, talk: Any, file: str) -> None:
        if not file:
            self.note("/save takes the name of a .jsonl file.")
            return
        path = Path(file).expanduser()
        count = talk.save(path)
        self.note(f"{count} messages were added to {path}; `ft train --data {shlex.quote(file)}` learns from them.")

    def complain(self, error: Exception) -> None:
        self.out.print(block(explain(error)), style="red")
        self.out.print()

    def note(self, text: str, style: str = "dim") -> None:
        self.out.console.print(Text(visible(text), style), soft_wrap=False)

    def put(self, text: Text) -> None:
        self.out.console.print(text, end="", soft_wrap=True)


class Flow:
    """Text that comes in pieces, wrapped between words into the columns beside a label.

    A word is held back until it is whole or as wide as the line. Wide characters (Chinese, emoji) may be parted.
    """

    def __init__(self, width: int, indent: int) -> None:
        self.width, self.indent = max(width - 1, indent + 8), indent
        self.column, self.word, self.space = indent, "", ""

    def add(self, piece: str) -> str:
        """What can be shown now."""
        shown = ""
        for sign in piece:
            if sign.isspace() or self.parts(sign):
                shown += self.place()
            if sign == "\n":
                shown, self.column, self.space = shown + "\n" + " " * self.indent, self.indent, ""
            elif sign.isspace():
                self.space += sign
            else:
                self.word += sign
        return shown

    def parts(self, sign: str) -> bool:
        """Whether a line may end before this sign: not within an emoji that several signs make."""
        joined = self.word.endswith(JOINER)
        return (cell_len(sign) == 2 and not joined) or cell_len(self.word) >= self.width - self.indent

    def place(self) -> str:
        """The held word, in this line or the next."""
        if not self.word:
            return ""
        word, space, self.word, self.space = self.word, self.space, "", ""
        size = cell_len(space) + cell_len(word)
        if self.column + size <= self.width or self.column == self.indent:
            self.column += size
            return space + word
        self.column = self.indent + cell_len(word)
        return "\n" + " " * self.indent + word

    def end(self) -> str:
        """What was held back."""
        return self.place()
