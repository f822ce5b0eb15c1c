"""Processes for native code that reads model files: what breaks in there ends the process, and is told as an error."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import orjson

import truetune
from truetune.errors import CheckFailed, ResourceError

START = "import sys; sys.path[:0] = [{root!r}]; from truetune.export.gguf import {name}; {name}.main()"
ROOT = str(Path(truetune.__file__).parents[1])
TAIL = 300
"""Characters of what the program said that a message repeats."""
COMPLAINT = re.compile(r"^\S+ E (.*)|(GGML_ASSERT.*)")
"""A line of its log about an error."""


class Child:
    """A module of this package in a process of its own, asked and answered in lines of JSON.

    Raises CheckFailed `export.runtime` where it breaks down.
    """

    def __init__(self, name: str) -> None:
        self.said = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        self.process = subprocess.Popen(
            [sys.executable, "-X", "utf8", "-c", START.format(root=ROOT, name=name)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.said,
            cwd=os.sep,
        )

    def ask(self, value: Any) -> Any:
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(json.dumps(value).encode() + b"\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except OSError:
            line = b""
        if not line.endswith(b"\n"):
            raise self.broken()
        return orjson.loads(line)

    def broken(self) -> CheckFailed:
        """What is said of a process that ended: its own last words."""
        self.process.wait(10)
        self.said.seek(0)
        lines = [line for line in self.said.read().decode("utf-8", "replace").splitlines() if line.strip()]
        words = (
            [found[1] or found[2] for line in lines if (found := COMPLAINT.search(line))] or lines[-1:] or ["nothing"]
        )
        said = "".join(letter if letter.isprintable() else " " for letter in words[0])
        return CheckFailed(
            f"llama.cpp does not load or run it; it says: {said[:TAIL]}",
            code="export.runtime",
            where="gguf",
            hint="Nothing was written. Export with --format merged, and say which model this is.",
        )

    def close(self) -> None:
        process = self.process
        for pipe in (process.stdin, process.stdout):
            assert pipe
            try:
                pipe.close()
            except OSError:
                continue
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self.said.close()


def need(module: str, extra: str, what: str) -> None:
    """Raises ResourceError `export.not_installed` where a library is not here."""
    if importlib.util.find_spec(module) is None:
        raise missing(module, extra, what)


def missing(library: str, extra: str, what: str) -> ResourceError:
    return ResourceError(
        f"{what} needs {library}, which is not installed",
        code="export.not_installed",
        where="format",
        hint=f'Install it: pip install "truetune[{extra}]".',
    )
