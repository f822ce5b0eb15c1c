"""The arithmetic of the gate: distances of distributions, greedy ties, ends, and what is wrong with a tensor."""

from __future__ import annotations

import numpy as np
import pytest

from truetune.export import bisect, stages
from truetune.export.runtime import Part
from truetune.export.stages import Asked, Said


def logs(*rows: list[float]) -> np.ndarray:
    return np.log(np.array(rows, np.float32))


def said(answers: list[list[int]], found: np.ndarray, **values: object) -> Said:
    return Said("it", [[1]], [[1]], frozenset({2}), answers, [found], closing=frozenset({2}), **values)  # type: ignore[arg-type]


def test_a_distance_in_figures() -> None:
    one, other = logs([0.5, 0.25, 0.25], [0.9, 0.05, 0.05]), logs([0.25, 0.5, 0.25], [0.9, 0.05, 0.05])
    found = stages.apart([one], [other])
    assert found.kl == pytest.approx((0.5 * np.log(2) - 0.25 * np.log(2)) / 2)
    assert found.largest == pytest.approx(np.log(2)) and (found.tokens, found.top1) == (2, 0.5)
    assert found.decided == 0.5, "both places are led by more than half a nat"
    assert stages.apart([one], [one]).largest == 0


def test_a_program_that_tells_only_the_likeliest_bounds_it_from_below() -> None:
    one, other = logs([0.5, 0.3, 0.2]), logs([0.2, 0.3, 0.5])
    told = other.copy()
    told[0, 1] = np.nan
    whole, part = stages.apart([one], [other]).kl, stages.apart([one], [told]).kl
    assert 0 < part <= whole + 1e-9


def test_a_token_that_one_side_rules_out_is_seen() -> None:
    one, other = np.array([[0.0, -np.inf]], np.float32), np.array([[-0.7, -0.7]], np.float32)
    assert stages.apart([one], [one]).largest == 0 and stages.apart([other], [one]).largest > 1e30


def test_numbers_that_are_none_are_no_agreement() -> None:
    found = stages.apart([logs([0.5, 0.5])], [np.full((1, 2), np.nan, np.float32)])
    assert found.largest == np.inf and found.top1 == 0


@pytest.mark.parametrize(("lead", "expected"), [(0.5, 0), (1e-5, None)])
def test_another_greedy_answer_counts_where_it_was_no_tie(lead: float, expected: int | None) -> None:
    rows = np.array([[0.0, -lead, -5.0], [0.0, -3.0, -5.0]], np.float32)
    asked = Asked([], [[7]], [[7, 0]])
    assert stages.greedy(said([[0, 1]], rows), said([[1, 0]], rows), asked) == expected


def test_an_end_that_does_not_end() -> None:
    rows = logs([0.5, 0.5])
    assert stages.ends(said([], rows), said([], rows, stopped={2: True})).state == "ok"
    deaf = stages.ends(said([], rows), said([], rows, stopped={2: False}))
    assert deaf.state == "failed" and "does not stop at token 2" in deaf.detail


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda value: value, ""),
        (lambda value: value * (1 + 1e-6), ""),
        (lambda value: value.T, "is transposed"),
        (lambda value: value[::-1], "has its rows in another order"),
        (lambda value: value * 0, "is empty"),
        (lambda value: value * 1.01, "holds other numbers"),
        (lambda value: value[:2], "is (2, 3), not (3, 3)"),
    ],
)
def test_what_is_wrong_with_a_tensor(change: object, told: str) -> None:
    wanted = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
    assert bisect.told(Part("it", wanted, change(wanted), True)) == told  # type: ignore[operator]
