"""The keyboard during a conversation: what is typed and when, Ctrl-C, and the lines of conversations before."""

from __future__ import annotations

import signal
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from truetune import paths

try:
    import readline
except ModuleNotFoundError:  # a Python built without it: lines are typed without history
    readline = None  # type: ignore[assignment]

HISTORY = 1000
"""Lines that are remembered from one time to the next."""
TICK = 0.25
"""Seconds after which a Ctrl-C is heard at the latest."""


def marked(code: str) -> str:
    """A control sequence within a prompt: readline has to know that it takes no room."""
    return f"\x01{code}\x02" if readline else code


@contextmanager
def heard() -> Iterator[None]:
    """Around `input`: a Ctrl-C is heard whenever it comes.

    Readline looks for one where it ends the waiting for a key. One that came the moment before, while the prompt was
    written, would be heard at the next key only; an alarm that does nothing ends the waiting too.
    """
    before = signal.signal(signal.SIGALRM, lambda number, frame: None)
    signal.setitimer(signal.ITIMER_REAL, TICK, TICK)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """Within it Ctrl-C is only noted, so that no computation is torn apart; a second one is raised."""
    asked: list[int] = []

    def note(number: int, frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def unechoed() -> Iterator[None]:
    """What is typed in here does not stand in the middle of the answer; it is there when the next line is read."""
    try:
        terminal = sys.stdin.fileno()
        before = termios.tcgetattr(terminal)
    except (OSError, termios.error):
        yield
        return
    flags = before[:]
    flags[3] &= ~termios.ECHO
    termios.tcsetattr(terminal, termios.TCSADRAIN, flags)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


@contextmanager
def history(name: str) -> Iterator[None]:
    """The lines typed before, in a file of TrueTune's home that nobody else may read."""
    if readline is None:
        yield
        return
    path = paths.home() / name
    readline.clear_history()
    with suppress(OSError):
        readline.read_history_file(path)
    readline.set_history_length(HISTORY)
    try:
        yield
    finally:
        with suppress(OSError):  # a home that cannot be written is no reason to fail
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(0o600)
            readline.write_history_file(path)


@contextmanager
def completing(found: Callable[[str, str], list[str]]) -> Iterator[None]:
    """Tab completes: `found` is told the line up to the cursor and the word in it that is being typed."""
    if readline is None:
        yield
        return

    def complete(text: str, state: int) -> str | None:
        try:
            words = found(readline.get_line_buffer()[: readline.get_endidx()], text)
        except Exception:  # a registry that cannot be read is no reason to lose the line
            return None
        return words[state] if state < len(words) else None

    before, delimiters = readline.get_completer(), readline.get_completer_delims()
    readline.set_completer(complete)
    readline.set_completer_delims(" \t\n")
    readline.parse_and_bind("bind ^I rl_complete" if "libedit" in (readline.__doc__ or "") else "tab: complete")
    try:
        yield
    finally:
        readline.set_completer(before)
        readline.set_completer_delims(delimiters)
