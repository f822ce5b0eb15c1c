"""Intervals and verdicts: what may be said of a difference."""

from __future__ import annotations

import numpy as np
import pytest

from truetune.evaluate import intervals
from truetune.evaluate.intervals import figure, wilson
from truetune.evaluate.metrics import METRICS

LOSS, SHARE = METRICS["loss"], METRICS["exact_match"]


def rows(values: object) -> np.ndarray:
    numbers = np.asarray(values, float)
    return np.column_stack([numbers, np.ones(len(numbers))])


def test_the_bootstrap_finds_the_standard_error() -> None:
    values = np.random.default_rng(1).normal(3, 0.5, 400)
    found = figure(LOSS, rows(values), None)["base"]
    half = 1.96 * values.std() / 20
    assert found["value"] == pytest.approx(values.mean())
    assert found["high"] - found["low"] == pytest.approx(2 * half, rel=0.1)


def test_a_paired_difference_is_surer_than_its_sides() -> None:
    base = np.random.default_rng(2).normal(3, 1, 50)
    found = figure(LOSS, rows(base), rows(base - 0.1))
    assert found["base"]["low"] < found["tuned"]["value"] < found["base"]["high"]
    assert found["difference"]["value"] == pytest.approx(-0.1)
    assert found["verdict"] == "better"


def test_the_same_rows_give_the_same_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    base, tuned = rows(np.arange(30.0)), rows(np.arange(30.0)[::-1])
    first = figure(LOSS, base, tuned)
    assert first == figure(LOSS, base, tuned)
    monkeypatch.setattr(intervals, "AT_ONCE", 100)  # the table of draws in pieces
    assert figure(LOSS, base, tuned) == first


@pytest.mark.parametrize(
    ("metric", "base", "tuned", "verdict"),
    [
        ("loss", [3.0] * 8, [2.0] * 8, "better"),
        ("loss", [2.0] * 8, [3.0] * 8, "worse"),
        ("exact_match", [0] * 8, [1] * 8, "better"),
        ("exact_match", [1] * 8, [0] * 8, "worse"),
        ("exact_match", [0] * 8, [0] * 7 + [1], "unclear"),
        ("exact_match", [0] * 8, [0] * 8, "same"),
        ("loss", [3.0] * 5, [2.0] * 5, "few"),
        ("length", [1.0] * 8, [2.0] * 8, "higher"),
        ("length", [2.0] * 8, [1.0] * 8, "lower"),
    ],
)
def test_verdicts(metric: str, base: list[float], tuned: list[float], verdict: str) -> None:
    assert figure(METRICS[metric], rows(base), rows(tuned))["verdict"] == verdict


def test_a_model_alone_has_no_verdict() -> None:
    found = figure(LOSS, rows([1.0] * 8), None)
    assert found["tuned"] is found["difference"] is None
    assert "verdict" not in found


@pytest.mark.parametrize(
    ("hits", "of", "low", "high"), [(0, 10, 0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1)]
)
def test_wilson(hits: int, of: int, low: float, high: float) -> None:
    """The values of Newcombe 1998, and of any statistics package."""
    found = wilson(np.array([hits, of], float))
    assert (found["low"], found["high"]) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_no_right_row_in_eight_is_not_certainty() -> None:
    assert figure(SHARE, rows([0] * 8), None)["base"]["high"] > 0.3


def test_what_was_not_measured_is_null() -> None:
    for metric in METRICS.values():
        nothing = np.zeros((8, metric.width))
        found = figure(metric, nothing, nothing)
        empty = {"value": None, "low": None, "high": None}
        assert found == {"base": empty, "tuned": empty, "difference": empty, "verdict": "few"}
