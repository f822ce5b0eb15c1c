"""How figures and foreign texts are said, and what curves become."""

from __future__ import annotations

import numpy as np
import pytest

from truetune.report import rewards, series, words


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (words.change(7.704, 0.662), "−91%"),
        (words.change(1.0, 0.973), "−2.7%"),
        (words.change(2216.0, 1.237), "−99.94%"),
        (words.change(1.0, 1.0), "+0%"),
        (words.written(2e-4), "2e-4"),
        (words.written(1e-3 / 3), "3.3e-4"),
        (words.written(0.0), "0"),
        (words.written(0.3), "0.3"),
        (words.figure(2216.4), "2,216"),
        (words.figure(0.093521), "0.09352"),
        (words.figure(None), "not measured"),
        (words.figure(-0.25), "−0.25"),
        (words.minus("-12"), "−12"),
        (words.minus("1e-05"), "1e-05"),
        (next(rewards.said({"reward_margin": -0.0312})), "margin −0.031"),
        (words.percent(0.004), "0.4%"),
        (words.percent(0.62), "62%"),
        (words.clock(3723), "1:02:03"),
        (words.size(1_500_000_000), "1.5 GB"),
        (words.listed(["a"]), "a"),
        (words.listed(["a", "b", "c"]), "a, b and c"),
        (words.listed(["a", "b", "c", "d", "e"]), "a, b, c and 2 more"),
        (words.short("abcdef", 4), "abc…"),
    ],
)
def test_figures_are_said_as_people_read_them(said, wanted):
    assert said == wanted


def test_text_that_steers_is_shown_and_not_obeyed():
    assert words.plain("a\x1b[31mb\u202ec\ud800\td\r\n") == "a\ufffd[31mb\ufffdc\ufffd\td\n"
    assert words.line("  a\n\n b\tc ") == "a b c"


def test_a_smoothed_curve_keeps_level_length_and_ends():
    values = np.array([1.0, np.nan, 3.0, 5.0, 7.0])
    assert series.smooth(values, 3).tolist() == [1.0, 2.0, 4.0, 5.0, 6.0]
    assert series.smooth(np.ones(7), 100).tolist() == [1.0] * 7


def test_a_thinned_curve_keeps_its_peaks_and_ends():
    values = np.sin(np.linspace(0, 20, 5000))
    values[3210] = 99.0
    kept = series.thin(values, 200)
    assert len(kept) <= 200 and 3210 in kept and kept[0] == 0 and kept[-1] == 4999
    assert (np.diff(kept) > 0).all()
    assert series.thin(values[:10], 200).tolist() == list(range(10))


def test_a_spike_stands_out_of_its_noise_and_not_of_the_start():
    noise = np.random.default_rng(0).normal(3.0, 0.05, 200)
    noise[[5, 120]] += 2.0
    assert np.flatnonzero(series.spikes(noise)).tolist() == [120]
    assert not series.spikes(np.zeros(20)).any()
