"""metrics.jsonl: torn lines, attempts, and what readers see."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from truetune.runs.metrics import Metrics


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def steps(rows: list[dict[str, object]]) -> list[object]:
    return [row["step"] for row in rows]


def test_a_row_is_one_line_of_json(path: Path) -> None:
    Metrics(path).append("train", 1, loss=np.float32(0.5), lr=1e-4)
    row = json.loads(path.read_text())
    assert row.pop("time") > 1e9
    assert row == {"attempt": 1, "step": 1, "kind": "train", "loss": 0.5, "lr": 1e-4}


def test_what_is_no_number_is_null(path: Path) -> None:
    Metrics(path).append("train", 1, loss=float("nan"), grad_norm=float("inf"))
    (row,) = Metrics(path).read()
    assert row["loss"] is None and row["grad_norm"] is None


def test_no_file_is_no_rows(path: Path) -> None:
    assert Metrics(path).read() == []


def test_kinds(path: Path) -> None:
    metrics = Metrics(path)
    metrics.append("train", 1, loss=1.0)
    metrics.append("eval", 1, eval_loss=2.0)
    assert [row["kind"] for row in metrics.read("eval")] == ["eval"]


@pytest.mark.parametrize(
    "torn", [b'{"time": 1, "st', b"\x00" * 40, b"\x00" * 40 + b"\n", b"nonsense\n{\n", b'{"step": 3}']
)
def test_a_torn_end_is_cut_on_resume_and_ignored_before(path: Path, torn: bytes) -> None:
    metrics = Metrics(path)
    for step in (1, 2):
        metrics.append("train", step, loss=1.0)
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    assert steps(Metrics(path).read("train")) == [1, 2]
    Metrics(path).resume(2)
    data = path.read_bytes()
    assert data.startswith(whole) and torn not in data
    assert [json.loads(line)["kind"] for line in data.splitlines()] == ["train", "train", "resume"]


def test_a_resume_supersedes_what_came_after_its_step(path: Path) -> None:
    first = Metrics(path)
    for step in (1, 2, 3, 4):
        first.append("train", step, loss=float(step))
    second = Metrics(path)
    second.resume(2)
    second.append("train", 3, loss=30.0)
    rows = Metrics(path).read("train")
    assert [(row["step"], row["loss"], row["attempt"]) for row in rows] == [(1, 1.0, 1), (2, 2.0, 1), (3, 30.0, 2)]


def test_an_evaluation_measured_again_counts_once(path: Path) -> None:
    Metrics(path).append("eval", 2, eval_loss=1.0)
    second = Metrics(path)
    second.resume(2)
    second.append("eval", 2, eval_loss=1.5)
    assert [row["eval_loss"] for row in Metrics(path).read("eval")] == [1.5]


def test_several_events_of_a_step_all_count(path: Path) -> None:
    metrics = Metrics(path)
    metrics.append("event", 2, text="a")
    metrics.append("event", 2, text="b")
    assert len(metrics.read("event")) == 2


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(1, 6), st.booleans()), min_size=1, max_size=7))
def test_the_view_is_what_an_uninterrupted_run_would_show(
    tmp_path_factory: pytest.TempPathFactory, attempts: list[tuple[int, int, bool]]
) -> None:
    """Attempts resume somewhere at or before where the last one got to; each row says what its attempt computed."""
    path = tmp_path_factory.mktemp("m") / "metrics.jsonl"
    model: dict[int, int] = {}
    reached = 0
    for number, (back, length, torn) in enumerate(attempts, start=1):
        metrics = Metrics(path)
        start = max(0, reached - back * 2)
        if number > 1:
            metrics.resume(start)
            model = {step: attempt for step, attempt in model.items() if step <= start}
        for step in range(start + 1, start + length + 1):
            metrics.append("train", step, loss=1.0)
            model[step] = number
        reached = start + length
        if torn:
            path.write_bytes(path.read_bytes() + b'{"kind": "train", "step": 99')
    rows = Metrics(path).read("train")
    assert [(row["step"], row["attempt"]) for row in rows] == sorted(model.items())
