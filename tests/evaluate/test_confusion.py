"""Figures of classes, by hand and by their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from truetune.evaluate import confusion, intervals


def holds(labels: list[int], classes: int = 3) -> confusion.Holds:
    return np.asarray(np.eye(classes, dtype=bool)[labels])


TRUE, FOUND = holds([0, 0, 0, 1, 1, 2]), holds([0, 0, 1, 1, 2, 2])


def value(name: str, true: confusion.Holds, found: confusion.Holds) -> float:
    sums = confusion.sums(true, found, np.zeros(len(true)))[name]
    return float(confusion.METRICS[name].of(sums.sum(0)))


def test_figures_by_hand() -> None:
    assert confusion.matrix(TRUE, FOUND) == [[2, 1, 0], [0, 1, 1], [0, 0, 1]]
    first, second, third = confusion.by_class(["a", "b", "c"], TRUE, FOUND)
    assert first == {"name": "a", "rows": 3, "found": 2, "precision": 1.0, "recall": 2 / 3, "f1": 0.8}
    assert (second["precision"], second["recall"], second["f1"]) == (0.5, 0.5, 0.5)
    assert (third["precision"], third["recall"], third["f1"]) == (0.5, 1.0, 2 / 3)
    assert value("accuracy", TRUE, FOUND) == value("micro_f1", TRUE, FOUND) == 4 / 6
    assert np.isclose(value("macro_f1", TRUE, FOUND), (0.8 + 0.5 + 2 / 3) / 3)


def test_several_classes_for_a_row() -> None:
    true = np.array([[1, 1, 0], [0, 0, 0], [1, 0, 0]], bool)
    found = np.array([[1, 0, 0], [0, 0, 0], [1, 1, 0]], bool)
    assert np.isclose(value("accuracy", true, found), 1 / 3)
    assert np.isclose(value("micro_f1", true, found), 2 * 2 / (2 * 2 + 1 + 1))
    assert np.isclose(value("macro_f1", true, found), (1 + 0) / 2), "a class that stands nowhere is not counted"
    assert confusion.by_class(["a", "b", "c"], true, found)[2] == {
        "name": "c",
        "rows": 0,
        "found": 0,
        "precision": None,
        "recall": None,
        "f1": None,
    }


@pytest.mark.parametrize("seed", range(4))
def test_sums_add_up_to_the_definitions(seed: int) -> None:
    """F1 from precision and recall, over random labels; sklearn's averages are these."""
    rng = np.random.default_rng(seed)
    true, found = holds(rng.integers(0, 4, 50).tolist(), 4), holds(rng.integers(0, 4, 50).tolist(), 4)
    each = confusion.by_class(list("abcd"), true, found)
    harmonic = [2 * one["precision"] * one["recall"] / (one["precision"] + one["recall"] or 1) for one in each]
    assert np.allclose([one["f1"] for one in each], harmonic)
    assert np.isclose(value("macro_f1", true, found), np.mean(harmonic))
    assert np.isclose(value("micro_f1", true, found), (true & found).any(1).mean())


def test_an_interval_is_of_the_figure_and_not_of_its_rows() -> None:
    sums = confusion.sums(TRUE, FOUND, np.zeros(6))["macro_f1"]
    figure = intervals.figure(confusion.METRICS["macro_f1"], sums, sums)
    assert figure["tuned"]["low"] < figure["tuned"]["value"] < figure["tuned"]["high"]
    assert figure["verdict"] == "same"
