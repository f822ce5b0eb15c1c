"""The loss curve in the terminal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from truetune.cli.chart import MARK, curve

NUMBERS = st.just(0.0) | st.floats(1e-6, 1e6)


def test_a_falling_line_falls() -> None:
    lines = curve([(0, 4.0), (10, 2.0), (20, 0.0)], [], width=10, height=4)
    plot = [line[10:] for line in lines[:4]]
    assert plot[0].strip() and not plot[0][5:].strip(), "the start is at the top left"
    assert not plot[3][:5].strip() and plot[3].strip(), "the end at the bottom right"
    assert lines[0].startswith("       4 ┤") and lines[3].startswith("       0 ┤")
    assert lines[-1].split() == ["0", "20"]


def test_marks_stand_over_the_line() -> None:
    lines = curve([(0, 2.0), (10, 1.0)], [(0, 2.0), (10, 2.0)], width=10, height=4)
    assert lines[0].count(MARK) == 2


def test_nothing_to_draw() -> None:
    assert curve([], []) == curve([(1, 2.0)], [(0, 3.0)]) == []


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=50), st.lists(st.tuples(NUMBERS, NUMBERS)))
def test_it_never_leaves_its_frame(line: list[tuple[float, float]], marks: list[tuple[float, float]]) -> None:
    drawn = curve(sorted(line), marks, width=20, height=5)
    assert len(drawn) == 7
    assert all(len(text) <= 10 + 20 for text in drawn[:-1])
