"""What a tokenizer.json may make of a text: its parts are a small program, too, and run in native code.

A chain of replacements that each double a text fills the memory with a row of forty letters; a part that is named a
million times takes for ever. Real files have a handful of parts, and none that makes a text longer by much.
"""

from __future__ import annotations

import re
from typing import Any

PARTS = 64
"""Parts of the normalizer, and of each of the other steps."""
GROWTH = 64
"""How many times longer the replacements of one step can make a text."""
STEPS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
PIECE = re.compile(r"\\.|\[(?:\\.|\[[^\]]*\]|[^\]\\])*\]|(?P<many>[*+]|\{\d*,\d*\})|.", re.S)
"""Of a pattern: an escape, a class of characters, a repetition, or any character."""
INNER = ("normalizers", "pretokenizers", "processors", "decoders")


def check(document: Any) -> None:
    """Raises ValueError with what no tokenizer does."""
    if not isinstance(document, dict):
        raise ValueError("it is not an object")
    for step in STEPS:
        parts = _parts(document.get(step))
        if len(parts) > PARTS:
            raise ValueError(f"its {step} has {len(parts)} parts")
        growth = 1.0
        for part in parts:
            growth *= max(1.0, _growth(part))
            if _backtracks(part):
                raise ValueError(f"its {step} has a pattern that can take for ever")
        if growth > GROWTH:
            raise ValueError(f"its {step} makes a text more than {GROWTH} times longer")


def _parts(step: Any) -> list[dict[str, Any]]:
    """A step's parts in order, sequences inside sequences laid out."""
    found, waiting = [], [step]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += reversed(part)
        elif isinstance(part, dict):
            found.append(part)
            waiting += [
                part[name] for name in ("normalizers", "pretokenizers", "processors", "decoders") if name in part
            ]
    return found


def _backtracks(part: dict[str, Any]) -> bool:
    pattern = part.get("pattern")
    text = pattern.get("Regex") if isinstance(pattern, dict) else None
    return isinstance(text, str) and backtracks(text)


def backtracks(pattern: str) -> bool:
    """Whether a pattern repeats a group that itself repeats or chooses, as `(a+)+`: the time to match it can double
    with every letter. No tokenizer in use does that."""
    open_groups, repeats, after_group = [False], False, False
    for piece in PIECE.finditer(pattern):
        text = piece[0]
        if text == "(":
            open_groups.append(False)
        elif text == ")" and len(open_groups) > 1:
            repeats = open_groups.pop()
            open_groups[-1] |= repeats
        elif text == "|" and len(open_groups) > 1:
            open_groups[-1] = True
        elif piece["many"]:
            if after_group and repeats:
                return True
            open_groups[-1] = True
        after_group = text == ")"
    return False


def _growth(part: dict[str, Any]) -> float:
    """How many times longer a replacement can make a text; a pattern may match a single character, or none."""
    content = part.get("content", part.get("prepend", ""))
    pattern = part.get("pattern")
    found = pattern.get("String") if isinstance(pattern, dict) else None
    if part.get("type") != "Replace" or not isinstance(content, str):
        return 1.0
    if found == "":
        raise ValueError("it replaces the empty text")
    return len(content) / (len(found) if isinstance(found, str) else 1)
