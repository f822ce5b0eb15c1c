"""What a tokenizer.json may make of a text: its parts are a small program, too, and run in native code.

A chain of replacements that each double a text fills the memory with a row of forty letters; a part that is named a
million times takes for ever. Real files have a handful of parts, and none that makes a text longer by much.
"""

from __future__ import annotations

from typing import Any

PARTS = 64
"""Parts of the normalizer, and of each of the other steps."""
GROWTH = 64
"""How many times longer the replacements of one step can make a text."""
STEPS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
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
