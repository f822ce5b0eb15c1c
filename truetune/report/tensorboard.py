"""TensorBoard events of a run, in its folder: `tensorboard --logdir runs`. Safe across resumes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

KINDS = {
    "train": ("loss", "lr", "grad_norm", "tokens_per_second", "epoch"),
    "eval": ("loss",),
}
"""Kind -> figures that are drawn, as `train/loss`."""


class Events:
    """A listener of a run. The file appears in `<run>/tensorboard` with the first figures."""

    def __init__(self) -> None:
        self.writer: EventFileWriter | None = None
        self.folder = Path()

    def __call__(self, kind: str, figures: dict[str, Any]) -> None:
        if kind == "run":
            self.folder = Path(figures["folder"]) / "tensorboard"
        elif kind == "start":
            self.start(figures["step"])
        elif kind in KINDS and self.writer:
            values = [Summary.Value(tag=f"{kind}/{name}", simple_value=figures[name]) for name in KINDS[kind]]
            self.add(figures["step"], summary=Summary(value=values))

    def start(self, step: int) -> None:
        """Open a file. On a resume, TensorBoard drops what an earlier attempt wrote after `step`."""
        self.writer = EventFileWriter(str(self.folder))
        if step:
            self.add(step + 1, session_log=SessionLog(status=SessionLog.START))

    def add(self, step: int, **content: Any) -> None:
        if self.writer:
            self.writer.add_event(Event(wall_time=time.time(), step=step, **content))

    def close(self) -> None:
        if self.writer:
            self.writer.close()
