"""Asks a process of its own to render chat templates (`worker.py`), and ends it when it takes too much.

There is one for the whole program, started when the first template is compiled. What it answers is a text or a reason;
nothing it could do harms the asking process. A worker that breaks down is started anew and asked once more, so that
what is said of a template never rests on what went before.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import markupsafe
import orjson
import psutil

from truetune import paths
from truetune.models.worker import EACH, MEMORY, SECONDS

START = "import sys; sys.path[:0] = sys.argv[1:]; from truetune.models import worker; worker.main()"
ROOTS = [str(Path(file).parents[up]) for file, up in ((__file__, 2), (jinja2.__file__, 1), (markupsafe.__file__, 1))]
BUFFER = 2**18
"""Bytes of a pipe that are read at once: each reading lets other threads run, and must wait until they let this one."""
KEPT = 32
"""Templates that one worker holds."""
LINE = 2**27
"""Bytes of one answer."""
SPARE = 2**26
"""Bytes that a worker holds before it has compiled anything, and then some."""

PLAIN = orjson.OPT_APPEND_NEWLINE | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
"""One line, and nothing that Python's own JSON would not take."""

Cut = tuple[int, bool]
Objects = Sequence[Mapping[str, Any]]
Talk = tuple[Objects, Objects, Sequence[Cut]]
Answer = str | list[Any]


class Breach(Exception):
    """The worker was ended: it took too much time or memory, or broke down."""


class Booth:
    """One worker process, and the templates that it knows. Calls from several threads wait for each other."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None
        self.known: set[str] = set()

    def compile(self, name: str, source: str) -> Answer:
        """Empty, or [kind, reason, line] of a template that is not valid. Raises Breach."""
        with self.lock:
            return self._twice(name, source, None)[0]

    def render(self, name: str, source: str, tokens: Mapping[str, str], talks: Sequence[Talk]) -> list[Answer]:
        """For each cut of each talk a text, or [kind, reason, 0]. Raises Breach, TypeError for what is not JSON."""
        line = _line({"name": name, "tokens": tokens, "talks": talks})
        with self.lock:
            return self._twice(name, source, (line, sum(len(cuts) for *_, cuts in talks)))

    def close(self) -> None:
        """End the worker; the next call starts another."""
        if process := self.process:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):  # what it did not take
                    assert pipe
                    pipe.close()
        self.process, self.known = None, set()

    def forget(self) -> None:
        """After a fork: the worker belongs to the parent."""
        self.__init__()  # type: ignore[misc]

    def _twice(self, name: str, source: str, request: tuple[bytes, int] | None) -> list[Answer]:
        fresh = self.process is None
        try:
            return self._once(name, source, request)
        except Breach:
            if fresh:
                raise
            return self._once(name, source, request)

    def _once(self, name: str, source: str, request: tuple[bytes, int] | None) -> list[Answer]:
        try:
            answers = [] if name in self.known else self._compile(name, source)
            return self._ask(*request) if request else answers or [""]
        except BaseException:  # also a Ctrl-C: its answer would be taken for the next one's
            self.close()
            raise

    def _compile(self, name: str, source: str) -> list[Answer]:
        if self.process is None or len(self.known) >= KEPT:
            self.close()
            self.process = _start()
        answers = self._ask(_line({"name": name, "source": source}), 1)
        if answers == [""]:
            self.known.add(name)
        return answers

    def _ask(self, line: bytes, count: int) -> list[Answer]:
        process = self.process
        assert process and process.stdin and process.stdout
        with _Watch(process, SECONDS + EACH * count):
            try:
                process.stdin.write(line)
                process.stdin.flush()
                return [_answer(process.stdout.readline(LINE)) for _ in range(count)]
            except (OSError, ValueError, RecursionError) as error:
                raise Breach from error


class _Watch:
    """Ends a worker that does not answer, or grows where the system does not hold it (macOS)."""

    def __init__(self, process: subprocess.Popen[bytes], cpu: float) -> None:
        self.process, self.limit = process, 30 + 10 * cpu
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        waited, pause = 0.0, 0.05
        while not self.done.wait(pause):
            waited += pause
            if waited > self.limit or _resident(self.process.pid) > MEMORY + SPARE:
                self.process.kill()
                return

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()


def _resident(number: int) -> int:
    try:
        return int(psutil.Process(number).memory_info().rss)
    except psutil.Error:
        return 0


def _start() -> subprocess.Popen[bytes]:
    """A worker without our environment, folder or files. `-I -S`: no code but ours runs before it."""
    zone = paths.variable("TZ")
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-X", "utf8", "-c", START, *dict.fromkeys(ROOTS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=BUFFER,
        cwd="/",
        env={"TZ": zone} if zone else {},
        close_fds=True,
    )


def _line(request: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(request, option=PLAIN)
    except TypeError:  # it is no JSON, or what only Python's own takes: half a character, a number beyond 64 bits
        return json.dumps(request).encode() + b"\n"


def _answer(line: bytes) -> Answer:
    """Raises Breach for a line that was cut off, ValueError for one that is no answer."""
    if not line.endswith(b"\n"):
        raise Breach
    try:
        answer = orjson.loads(line)
    except orjson.JSONDecodeError:  # as in `_line`
        answer = json.loads(line)
    if isinstance(answer, str) or (isinstance(answer, list) and len(answer) == 3):
        return answer
    raise Breach


BOOTH = Booth()
atexit.register(BOOTH.close)
os.register_at_fork(after_in_child=BOOTH.forget)
