"""Append-only rows of a run: metrics.jsonl (and samples.jsonl, by the same rules).

A row is {time, attempt, step, kind, …figures}. Kinds: train, eval, sample, event, checkpoint, resume. A resume starts
the next attempt: rows of earlier attempts beyond its step never happened as far as readers are concerned, but they
stay in the file. A figure that is not a number (NaN, infinity) is written as null, for JSON has neither.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from truetune.runs import durable, jsonfile

Row = dict[str, Any]
REPEATED = ("train", "eval", "sample")
"""Kinds of figures: where two attempts wrote those of a step, the later one's count."""


class Metrics:
    """The rows in one file. One process appends (under the run's lock); anybody may read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._attempt: int | None = None

    def append(self, kind: str, step: int, **figures: Any) -> None:
        """Add one row, by one write of a whole line."""
        row = {"time": round(time.time(), 3), "attempt": self.attempt, "step": step, "kind": kind} | figures
        durable.append(self.path, jsonfile.line(row))

    def resume(self, step: int) -> None:
        """Start the next attempt after `step`: cut what a crash tore, then write {kind: resume, from: step}."""
        self._cut()
        self._attempt = self.attempt + 1
        self.append("resume", step, **{"from": step})

    def read(self, kind: str | None = None) -> list[Row]:
        """The rows that count, in order; of one kind where one is given."""
        view: list[Row] = []
        for row in self._rows():
            if row["kind"] == "resume":
                view = [old for old in view if old["step"] <= row["step"]]
            view.append(row)
        last = {(row["kind"], row["step"]): row["attempt"] for row in view if row["kind"] in REPEATED}
        return [
            row
            for row in view
            if kind in (None, row["kind"]) and last.get((row["kind"], row["step"]), row["attempt"]) == row["attempt"]
        ]

    @property
    def attempt(self) -> int:
        """Number of the current attempt, from 1."""
        if self._attempt is None:
            self._attempt = 1 + sum(row["kind"] == "resume" for row in self._rows())
        return self._attempt

    def _rows(self) -> list[Row]:
        """Every whole row of the file; a torn or damaged line is no row."""
        rows = map(jsonfile.parse, self._lines())
        return [row for row in rows if row and isinstance(row.get("step"), int) and {"kind", "attempt"} <= row.keys()]

    def _lines(self) -> list[bytes]:
        try:
            return self.path.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return []

    def _cut(self) -> None:
        """Drop lines at the end that are torn (no newline) or, after a power cut, no JSON."""
        lines = self._lines()
        size = whole = sum(map(len, lines))
        while lines and not (lines[-1].endswith(b"\n") and jsonfile.parse(lines[-1])):
            whole -= len(lines.pop())
        if whole < size:
            durable.truncate(self.path, whole)
