"""Values that carry their unit: cadences (`100 steps`), amounts (`5%`, `200`), memory (`7.5GB`).

Each is parsed from what a person writes and printed back as text that parses to the same value. `parse` raises
ValueError with a sentence that starts with a verb ("must be …"), so that it can stand after the name of a key.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

Unit = Literal["steps", "epochs", "minutes"]

NUMBER = r"(\d+(?:\.\d+)?|\.\d+)"
CADENCE = re.compile(rf"{NUMBER}\s*([a-z]+)")
SHARE = re.compile(rf"{NUMBER}\s*(%?)")
ROWS = re.compile(r"(\d+)\s*(?:rows?|steps?)")
MEMORY = re.compile(rf"{NUMBER}\s*([kmgt]?i?b)", re.IGNORECASE)

UNITS: dict[str, Unit] = {
    "step": "steps",
    "steps": "steps",
    "epoch": "epochs",
    "epochs": "epochs",
    "min": "minutes",
    "mins": "minutes",
    "minute": "minutes",
    "minutes": "minutes",
}
BYTES = {f"{prefix}b": 1000**power for power, prefix in enumerate(["", "k", "m", "g", "t"])}
BYTES |= {f"{prefix}ib": 1024**power for power, prefix in enumerate(["k", "m", "g", "t"], start=1)}
LARGEST = 10**12
"""Longer counts than this are slips of the keyboard, and would not be exact as floats."""


@dataclass(frozen=True)
class Cadence:
    """How often something is due: every `count` steps, epochs or minutes of training."""

    count: float
    unit: Unit

    @classmethod
    def parse(cls, value: object) -> Cadence:
        """`100 steps`, `1 epoch`, `0.5 epoch`, `10 min`."""
        if isinstance(value, cls):
            return value
        match = CADENCE.fullmatch(value.strip().lower()) if isinstance(value, str) else None
        unit = UNITS.get(match[2]) if match else None
        if match is None or unit is None:
            raise ValueError(f"must say how often, such as `100 steps`, `1 epoch` or `10 min`, not {shown(value)}")
        count = float(match[1])
        if not 0 < count <= LARGEST:
            raise ValueError(f"must be more than 0, not {shown(value)}")
        if unit == "steps" and not count.is_integer():
            raise ValueError(f"must be a whole number of steps, not {shown(value)}")
        return cls(count, unit)

    def __str__(self) -> str:
        if self.unit == "minutes":
            return f"{plain(self.count)} min"
        return f"{plain(self.count)} {self.unit if self.count != 1 else self.unit[:-1]}"


@dataclass(frozen=True)
class Amount:
    """A part of a whole: `value` percent of it, or `value` rows or steps."""

    value: float
    percent: bool

    @classmethod
    def parse(cls, value: object) -> Amount:
        """`5%`, `0.05` (a share below 1), `200`, `200 rows`, `200 steps`."""
        if isinstance(value, cls):
            return value
        text = number_text(value)
        if match := ROWS.fullmatch(text):
            return cls._checked(match[1], value)
        match = SHARE.fullmatch(text)
        if match is None:
            raise ValueError(f"must be a percentage such as `5%` or a whole number, not {shown(value)}")
        share = Decimal(match[1])
        if match[2]:
            return cls._checked(match[1], value, percent=True)
        if "." in match[1] and share < 1:
            return cls._checked(str(share * 100), value, percent=True)
        if share != int(share) or isinstance(value, float):
            raise ValueError(f"must be a percentage such as `5%` or a whole number, not {shown(value)}")
        return cls._checked(match[1], value)

    @classmethod
    def _checked(cls, digits: str, value: object, percent: bool = False) -> Amount:
        number = float(digits)
        if number > (100 if percent else LARGEST):
            raise ValueError(f"must be at most {'100%' if percent else LARGEST}, not {shown(value)}")
        return cls(number, percent)

    def of(self, total: int) -> int:
        """Rows or steps that this amount is of `total`. A percentage rounds up, as warmup_ratio does in transformers;
        the arithmetic is decimal, so 7% of 100 is 7."""
        if not self.percent:
            return int(self.value)
        return math.ceil(Decimal(repr(self.value)) * total / 100)

    def within(self, total: int) -> int:
        """The most rows of `total` that are not more than this amount: a percentage rounds down."""
        if not self.percent:
            return int(self.value)
        return math.floor(Decimal(repr(self.value)) * total / 100)

    def __str__(self) -> str:
        return f"{plain(self.value)}%" if self.percent else plain(self.value)

    def plain(self) -> str | int:
        """As YAML and JSON hold it: `5%` or 200."""
        return str(self) if self.percent else int(self.value)


def parse_memory(value: object) -> int:
    """Bytes of `7.5GB` (10⁹), `512 MiB` (2²⁰) or `800 B`."""
    match = MEMORY.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"must be `auto` or a size with its unit, such as `7.5GB` or `512MiB`, not {shown(value)}")
    size = Decimal(match[1]) * BYTES[match[2].lower()]
    if not 1 <= size <= 10**18:
        raise ValueError(f"must be a size that memory can have, not {shown(value)}")
    return int(size)


def print_memory(size: int) -> str:
    """The shortest exact text: 7500000000 → `7.5GB`, 536870912 → `512MiB`."""
    texts = [f"{size} B"]
    for unit in ("MB", "MiB", "GB", "GiB", "TB", "TiB"):
        number = f"{(Decimal(size) / BYTES[unit.lower()]).normalize():f}"
        if Decimal(number) * BYTES[unit.lower()] == size:
            texts.append(number + unit)
    return min(texts, key=len)


def number_text(value: object) -> str:
    """The digits of a number or the stripped text; empty for anything else, booleans too."""
    if isinstance(value, str):
        return value.strip().lower()
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or abs(value) > LARGEST:
        return ""
    return plain(value) if isinstance(value, int) else f"{Decimal(repr(value)):f}"


def plain(number: float) -> str:
    """A number without exponent and without `.0`."""
    return f"{Decimal(repr(number)):f}".removesuffix(".0")


def shown(value: object) -> str:
    """A value as it stands in an error: short, on one line, told apart from text that looks the same."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    if isinstance(value, dict | list | tuple):
        return "a list" if not isinstance(value, dict) else "a group of keys"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
