"""TensorBoard reads what we write, a resume included."""

from __future__ import annotations

import pytest

pytest.importorskip("tensorboard")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from truetune.report.tensorboard import Events

FIGURES = {"lr": 1e-4, "grad_norm": 1.0, "tokens_per_second": 100.0, "epoch": 0.5}


def attempt(folder, start, losses):
    events = Events()
    events("run", {"folder": str(folder)})
    events("start", {"step": start})
    for step, loss in enumerate(losses, start=start + 1):
        events("train", {"step": step, "loss": loss} | FIGURES)
    events("eval", {"step": start + len(losses), "loss": losses[-1]})
    events.close()


def read(folder, tag):
    accumulator = EventAccumulator(str(folder / "tensorboard"))
    accumulator.Reload()
    return [(event.step, event.value) for event in accumulator.Scalars(tag)]


def test_figures_are_read_back(tmp_path):
    attempt(tmp_path, 0, [3.0, 2.0, 1.0])
    assert read(tmp_path, "train/loss") == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert read(tmp_path, "eval/loss") == [(3, 1.0)]


def test_a_resume_replaces_what_came_after_it(tmp_path):
    attempt(tmp_path, 0, [3.0, 2.0, 9.0, 9.0])
    attempt(tmp_path, 2, [1.0, 0.5])
    assert read(tmp_path, "train/loss") == [(1, 3.0), (2, 2.0), (3, 1.0), (4, 0.5)]
