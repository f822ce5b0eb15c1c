"""The page of `ft evaluate`: the table, what got worse, samples; and how numbers read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from truetune import cli
from truetune.cli.common import Output
from truetune.cli.evaluate import Watch, brief, show, value
from truetune.evaluate.intervals import figure
from truetune.evaluate.metrics import METRICS


def column(values: list[float]) -> np.ndarray:
    return np.column_stack([values, np.ones(len(values))])


def result(**sides: tuple[list[float], list[float] | None]) -> dict[str, Any]:
    """A document with these metrics: name=(base per row, tuned per row)."""
    rows = len(next(iter(sides.values()))[0])
    base = {"answer": "[red]At nine.\x1b[2J", "reason": "stop"}
    tuned = {"tuned": {"answer": "At six.", "reason": "stop"}}
    alone = any(after is None for _, after in sides.values())
    return {
        "subject": {
            "name": "a-run",
            "run": "a-run",
            "step": 9,
            "base": "starter",
            "kind": "base" if alone else "adapter",
        },
        "checkpoint": None if alone else "step-9",
        "task": "chat",
        "data": {"held_out": True, "rows": rows, "available": rows, "supervised": 1234, "inputs": []},
        "figures": {
            name: {
                "title": METRICS[name].title,
                **figure(METRICS[name], column(before), None if after is None else column(after)),
            }
            for name, (before, after) in sides.items()
        },
        "rows": [
            {"where": f"rows.jsonl:{at}", "question": f"When {at}?", "reference": "At six.", "base": base}
            | ({} if alone else tuned)
            for at in range(rows)
        ],
    }


def page(capsys: pytest.CaptureFixture[str], body: dict[str, Any]) -> str:
    show(Output({}), body)
    return capsys.readouterr().out


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    text = page(capsys, result(loss=([3.0] * 8, [2.0] * 8), exact_match=([1.0] * 8, [0.0] * 8), ended=([1.0] * 8,) * 2))
    assert "a-run at step-9 against starter" in text
    assert "chat: 8 held-out rows of rows.jsonl, 1,234 trained tokens" in text
    lines = {line.split("  ")[0]: " ".join(line.split()) for line in text.splitlines()}
    assert lines["loss"] == "loss 3.0000 ±0.0000 2.0000 ±0.0000 −1.0000 (−1.0000 … −1.0000) better"
    assert lines["exact match"].startswith("exact match 100.0 % ±16.2 0.0 % ±16.2 −100.0 %")
    assert "ends by itself 100.0 % ±16.2 100.0 % ±16.2 +0.0 % (+0.0 … +0.0) the same" in lines["ends by itself"]
    assert "The tuned model is worse than its base in: exact match." in text


def test_a_part_of_the_rows_is_called_so(capsys: pytest.CaptureFixture[str]) -> None:
    body = result(loss=([3.0] * 8, [2.0] * 8))
    body["data"]["available"] = 50
    show(Output({}), body)
    assert "chat: 8 of 50 held-out rows of rows.jsonl" in capsys.readouterr().out


def test_a_difference_that_may_be_chance_is_called_so(capsys: pytest.CaptureFixture[str]) -> None:
    near = page(capsys, result(loss=([3.0, 2.0] * 4, [2.9, 2.1] * 4)))
    assert "no clear difference" in near and "worse" not in near
    few = page(capsys, result(loss=([3.0] * 4, [2.0] * 4)))
    assert "too few rows to tell" in few and "±" not in few


def test_three_samples_that_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    text = page(capsys, result(loss=([3.0] * 8, [2.0] * 8)))
    assert text.count("When ") == 3
    assert "  base       [red]At nine.\\x1b[2J\n  tuned      At six.\n  reference  At six." in text


def test_a_model_alone_has_one_column(capsys: pytest.CaptureFixture[str]) -> None:
    text = page(capsys, result(loss=([3.0] * 8, None)))
    assert "tuned" not in text and "against" not in text and "change" not in text.splitlines()[3]
    assert "3.0000 ±0.0000" in text


@pytest.mark.parametrize(
    ("name", "numbers", "change", "text"),
    [
        ("loss", (1.23456, None, None), False, "1.2346"),
        ("chrf", (50.26, 40.0, 60.0), True, "+50.3 (+40.0 … +60.0)"),
        ("exact_match", (-0.5, -0.6, -0.4), True, "−50.0 % (−60.0 … −40.0)"),
        ("rouge1", (None, None, None), True, "–"),
        ("rougeL", (0.029, 0.002, 0.072), True, "+0.029 (+0.002 … +0.072)"),
        ("rougeL", (0.029, 0.0002, 0.072), True, "+0.029 (+0.0002 … +0.072)"),
        ("rougeL", (0.029, 0.0, 0.072), True, "+0.029 (+0.000 … +0.072)"),
        ("perplexity", (9.0, 5.0, 20.0), False, "9.00 (5.00 … 20.00)"),
        ("chrf", (50.26, 40.0, 60.0), False, "50.3 ±10.0"),
    ],
)
def test_numbers(name: str, numbers: tuple[float | None, ...], change: bool, text: str) -> None:
    assert value(name, dict(zip(("value", "low", "high"), numbers, strict=True)), change=change) == text


def test_long_texts_are_cut() -> None:
    assert brief("a\nb  c") == "a b c"
    assert len(brief("word " * 100)) == 150


def test_progress_without_a_terminal_is_a_line_per_stage(capsys: pytest.CaptureFixture[str]) -> None:
    with Watch(Output({})) as watch:
        for done in range(1, 5):
            watch("score", {"side": "base", "done": done, "total": 4})
        watch("warning", {"text": "few rows"})
        watch("saved", {"path": "eval/step-9.json", "receipt": None})
    said = capsys.readouterr()
    assert said.err == "base: loss 4/4\nwarning: few rows\n" and said.out == ""
    assert watch.saved == ["eval/step-9.json"]


def test_usage_is_refused_before_anything_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["evaluate", "--limit", "0"]) == 2
    assert cli.run(["evaluate", "--slots", "many"]) == 2
    assert "--limit" in capsys.readouterr().err
