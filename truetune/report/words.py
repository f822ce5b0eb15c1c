"""Figures and texts as people read them: times, sizes, changes, and text that steers nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from truetune.train.markdown import STEERING


def plain(text: object) -> str:
    """Text without what would steer the page that shows it; always valid UTF-8."""
    return STEERING.sub("\ufffd", str(text).replace("\r\n", "\n"))


def line(text: object) -> str:
    """`plain`, in one line."""
    return " ".join(plain(text).split())


def short(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def clock(seconds: float) -> str:
    """`1:02:03`, `2:05`, `48 s`."""
    whole = round(seconds)
    minutes, left = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{left:02}"
    return f"{minutes}:{left:02}" if minutes else f"{whole} s"


def counted(number: int, what: str) -> str:
    """`1 step`, `2,000 steps`."""
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def thousands(number: float) -> str:
    return f"{number / 1000:.1f}k" if number >= 1000 else f"{number:.0f}"


def size(number: float) -> str:
    """Bytes in powers of ten, as the docs count them."""
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"


def figure(value: float | None) -> str:
    """Four digits that count: `7.704`, `0.09352`, `2,216`."""
    if value is None:
        return "not measured"
    return minus(f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}")


def minus(number: str) -> str:
    """`-0.5` with the sign of a typesetter: `−0.5`."""
    return f"−{number[1:]}" if number.startswith("-") else number


def written(value: float) -> str:
    """A small number as people write it in train.yml: `2e-4`, `0.05`, `0`."""
    if value == 0 or abs(value) >= 0.01:
        return f"{value:.3g}"
    exponent = math.floor(math.log10(abs(value)) + 1e-9)
    return f"{value / 10.0**exponent:.2g}e{exponent}"


def percent(share: float) -> str:
    """`62%`, and `0.4%` where a whole number would hide it."""
    return f"{share:.1%}" if 0 < abs(share) < 0.0995 else f"{share:.0%}"


def change(before: float, after: float) -> str:
    """`−91%`"""
    ratio = after / before - 1
    digits = 1 if 0 < abs(ratio) < 0.0995 else 2 if -1 < ratio < -0.995 else 0
    return minus(f"{ratio:+.{digits}%}")


def judged(example: Mapping[str, Any]) -> str:
    """What a row says of an answer or a text: `the better answer`, `rated bad`, `label urgent`; empty of others."""
    if side := example.get("side"):
        return "the better answer" if side == "chosen" else "the worse answer"
    if rating := example.get("rating"):
        return f"rated {rating}"
    if "labels" not in example:
        return ""
    names = [line(name) for name in example["labels"]]
    return f"label{'s' * (len(names) > 1)} {', '.join(names)}" if names else "no label"


def listed(names: list[str], most: int = 3) -> str:
    """`a`, `a and b`, `a, b, c and 4 more`."""
    shown, more = names[:most], len(names) - most
    if more > 0:
        return f"{', '.join(shown)} and {more:,} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else "".join(shown)
