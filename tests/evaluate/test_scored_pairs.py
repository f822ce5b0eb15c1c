"""Pairs that a reward head scores: a tie counts as half, as it does in training and between answers."""

from __future__ import annotations

import numpy as np

from truetune.evaluate.preference import right
from truetune.evaluate.scored import REWARD, compared


def test_a_tie_counts_as_half() -> None:
    table = np.array([[2.0, 1.0], [1.0, 2.0], [0.5, 0.5], [3.0, 0.0]])
    metrics, base, (sums, told), more = compared(table)
    assert (metrics, base, more) == (REWARD, None, {})
    assert sums["accuracy"].tolist() == [[1.0, 1.0], [0.0, 1.0], [0.5, 1.0], [1.0, 1.0]]
    assert REWARD["accuracy"].of(sums["accuracy"].sum(0)) == 2.5 / 4
    assert told[2] == {"chosen": 0.5, "rejected": 0.5}


def test_one_rule_for_scores_and_for_rewards() -> None:
    lead = np.array([1e-9, -1e-9, 0.0])
    assert right(lead).tolist() == [1.0, 0.0, 0.5]
