"""A real pseudo-terminal around `ft`: what a person types, and what the screen got."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

LIMIT = 400
"""Seconds after which nothing comes any more, also on a machine that is slow and busy."""
STYLE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\r|\x01|\x02")


class Terminal:
    """`with Terminal(folder, env, "chat", "last") as screen: screen.wait("you"); screen.type("Hello\\n")`."""

    def __init__(self, folder: Path, env: Mapping[str, str], *args: str, columns: int = 80) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "truetune", *args],
            cwd=folder,
            env={**env, "TERM": "xterm-256color", "INPUTRC": "/dev/null"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            start_new_session=True,
        )
        os.close(slave)
        self.raw = b""
        self.read = 0
        """How far `wait` has got in `text`."""

    @property
    def text(self) -> str:
        """All that was written, without colours."""
        return STYLE.sub("", self.raw.decode("utf-8", "replace"))

    def wait(self, *wanted: str, limit: float = LIMIT) -> str:
        """What came up to and with the first of the wanted texts, since the last call."""
        end = time.monotonic() + limit
        while True:
            since = self.text[self.read :]
            places = [(since.find(text), text) for text in wanted if text in since]
            if places:
                place, text = min(places)
                self.read += place + len(text)
                return since[: place + len(text)]
            if time.monotonic() > end or not self.more():
                raise AssertionError(f"{wanted} did not come; the screen: {self.text[-2000:]}")

    def more(self) -> bool:
        """Read what there is; False at the end."""
        if not select.select([self.master], [], [], 0.1)[0]:
            return self.process.poll() is None
        try:
            part = os.read(self.master, 65536)
        except OSError:  # Linux: the other side was closed
            return False
        self.raw += part
        return bool(part)

    def type(self, text: str | bytes) -> None:
        os.write(self.master, text if isinstance(text, bytes) else text.encode())

    def interrupt(self) -> None:
        """Ctrl-C, as the terminal sends it."""
        self.type(b"\x03")

    def end(self, limit: float = LIMIT) -> int:
        """The exit code."""
        until = time.monotonic() + limit
        while self.more():
            assert time.monotonic() < until, self.text[-2000:]
        return self.process.wait(limit)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        os.close(self.master)
