"""llama.cpp's process from this side: what is asked of it, and its answers as they come. See `worker`."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any

import orjson

import truetune
from truetune.errors import InputError, ResourceError

ROOT = str(Path(truetune.__file__).parents[1])
START = f"import sys; sys.path[:0] = [{ROOT!r}]; from truetune.engines.gguf import worker; worker.main()"
COMPLAINT = re.compile(r"^\S+ E (.*)|(GGML_ASSERT.*)")
"""A line of its log about an error."""
TAIL = 300
"""Characters of what it said that a message repeats."""

Event = dict[str, Any]


class Process:
    """llama.cpp with a model. Any thread may ask; the events of streams come in `events`, as (number, event)."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        """`settings` as in `worker`. Raises ResourceError `engine.not_installed`, InputError `model.unloadable`."""
        if importlib.util.find_spec("xllamacpp") is None:
            raise missing()
        self.events: SimpleQueue[tuple[int, Event]] = SimpleQueue()
        self.asked: dict[int, Future[Any]] = {}
        self.numbers, self.lock = itertools.count(1), Lock()
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        self.child = subprocess.Popen(
            [sys.executable, "-X", "utf8", "-c", START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            cwd=os.sep,
            start_new_session=True,  # Ctrl-C is for the server, which lets answers end
        )
        self.send(dict(settings))
        assert self.child.stdout
        if not self.child.stdout.readline().endswith(b"\n"):
            reason = self.reason()
            self.close()
            raise unloadable(str(settings["model"]), reason)
        Thread(target=self.listen, name="llama.cpp", daemon=True).start()

    @property
    def runs(self) -> bool:
        return self.child.poll() is None

    def send(self, value: Any) -> None:
        assert self.child.stdin
        with self.lock, suppress(OSError):  # where it has ended, `listen` tells
            self.child.stdin.write(json.dumps(value).encode() + b"\n")
            self.child.stdin.flush()

    def ask(self, path: str, body: Any) -> Any:
        """Its answer. Raises ResourceError `engine.ended`."""
        number, done = next(self.numbers), Future[Any]()
        self.asked[number] = done
        self.send([number, path, body])
        if not self.runs:
            self.end()
        return done.result()

    def stream(self, body: Mapping[str, Any]) -> int:
        """Begin an answer; returns the number of its events."""
        number = next(self.numbers)
        self.send([number, "/completion", {**body, "stream": True}])
        return number

    def give_up(self, number: int) -> None:
        self.send([number])

    def listen(self) -> None:
        """In a thread: hand on what it says; when it has ended, tell everybody who waits."""
        assert self.child.stdout
        for line in self.child.stdout:
            if line.endswith(b"\n"):
                number, event = orjson.loads(line)
                waiting = self.asked.pop(number, None)
                if waiting:
                    waiting.set_result(event)
                else:
                    self.events.put((number, event))
        self.child.wait()
        self.end()

    def end(self) -> None:
        for number in [*self.asked]:
            if waiting := self.asked.pop(number, None):
                waiting.set_exception(ended())
        self.events.put((0, {"error": {"message": "llama.cpp has ended"}}))

    def reason(self) -> str:
        """The last words of a process that ended."""
        with suppress(subprocess.TimeoutExpired):
            self.child.wait(10)
        self.log.seek(0)
        lines = [line for line in self.log.read().decode("utf-8", "replace").splitlines() if line.strip()]
        told = [found[1] or found[2] for line in lines if (found := COMPLAINT.search(line))]
        return "".join(letter if letter.isprintable() else " " for letter in (told or lines[-1:] or ["nothing"])[0])

    def close(self) -> None:
        with suppress(OSError):
            assert self.child.stdin
            self.child.stdin.close()
        try:
            self.child.wait(5)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        self.log.close()


def missing() -> ResourceError:
    return ResourceError(
        "GGUF files are run by xllamacpp, which is not installed",
        code="engine.not_installed",
        where="llama.cpp",
        hint='Install it: pip install "truetune[gguf,serve]".',
    )


def unloadable(path: str, reason: str) -> InputError:
    return InputError(
        f"llama.cpp does not load this file; it says: {reason[:TAIL]}",
        code="model.unloadable",
        where=path,
        hint="Export it again, or serve the model that it was made from.",
    )


def ended() -> ResourceError:
    return ResourceError(
        "llama.cpp has ended in the middle of this answer",
        code="engine.ended",
        hint="Ask again: it is started anew. If that goes on, serve the model that the file was made from.",
    )
