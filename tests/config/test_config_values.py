"""Values with units: they parse, print back to the same value, and refuse what could mean two things."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truetune.config.values import Amount, Cadence, parse_memory, print_memory

counts = st.integers(1, 10**12)
parts = st.decimals(min_value="0.001", max_value=10**6, places=3)


@given(
    st.one_of(counts.map(lambda n: f"{n} steps"), parts.map(lambda n: f"{n} epochs"), parts.map(lambda n: f"{n}min"))
)
def test_a_cadence_prints_what_parses_to_itself(text: str) -> None:
    cadence = Cadence.parse(text)
    assert Cadence.parse(str(cadence)) == cadence


@pytest.mark.parametrize(
    ("text", "count", "unit", "printed"),
    [
        ("100 steps", 100, "steps", "100 steps"),
        ("1 Step", 1, "steps", "1 step"),
        ("1 epoch", 1, "epochs", "1 epoch"),
        (".5epochs", 0.5, "epochs", "0.5 epochs"),
        ("10 min", 10, "minutes", "10 min"),
        ("10 minutes", 10, "minutes", "10 min"),
    ],
)
def test_cadences(text: str, count: float, unit: str, printed: str) -> None:
    assert (Cadence.parse(text).count, Cadence.parse(text).unit, str(Cadence.parse(text))) == (count, unit, printed)


@pytest.mark.parametrize(
    "value", [100, "100", "0 steps", "1.5 steps", "-1 epoch", "2 weeks", "", None, True, "steps", "1e3 steps"]
)
def test_what_is_no_cadence(value: object) -> None:
    with pytest.raises(ValueError, match="must "):
        Cadence.parse(value)


@given(st.one_of(st.integers(0, 10**12), st.decimals(min_value=0, max_value=100, places=4).map(lambda n: f"{n}%")))
def test_an_amount_prints_what_parses_to_itself(value: object) -> None:
    amount = Amount.parse(value)
    assert Amount.parse(amount.plain()) == amount
    assert Amount.parse(str(amount)) == amount


@pytest.mark.parametrize(
    ("value", "total", "rows"),
    [
        ("5%", 100, 5),
        (0.05, 100, 5),
        ("0.05", 100, 5),
        (0.07, 100, 7),  # 0.07 * 100 is a little more than 7 in floats, and would round up to 8
        ("3%", 40, 2),
        ("5%", 0, 0),
        ("0%", 100, 0),
        (12, 100, 12),
        ("12 rows", 5, 12),
        ("100%", 7, 7),
    ],
)
def test_an_amount_of_a_total(value: object, total: int, rows: int) -> None:
    assert Amount.parse(value).of(total) == rows


@given(st.integers(0, 100), st.integers(0, 10**6))
def test_a_percentage_rounds_up(percent: int, total: int) -> None:
    assert Amount(percent, percent=True).of(total) == -(-percent * total // 100)


@pytest.mark.parametrize(
    "value", ["101%", 1.0, 1.5, -1, "-5%", True, None, math.nan, math.inf, "five", [5], 10**13, ""]
)
def test_what_is_no_amount(value: object) -> None:
    with pytest.raises(ValueError, match="must be"):
        Amount.parse(value)


@pytest.mark.parametrize(
    ("text", "size"),
    [("7.5GB", 7_500_000_000), ("512 MiB", 2**29), ("1 KB", 1000), ("3 b", 3), ("1.5gib", 3 * 2**29), ("1TiB", 2**40)],
)
def test_memory(text: str, size: int) -> None:
    assert parse_memory(text) == size


@given(st.integers(1, 2**44))
def test_memory_prints_what_parses_to_itself(size: int) -> None:
    assert parse_memory(print_memory(size)) == size


@pytest.mark.parametrize("value", [8, "8", "8 G", "GB", "-1GB", "0GB", None, True, "1e3MB", "9999999TB"])
def test_what_is_no_memory(value: object) -> None:
    with pytest.raises(ValueError, match="must be"):
        parse_memory(value)
