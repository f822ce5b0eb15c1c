"""Which of llama.cpp's ways to cut a text into words is a tokenizer's own: the key `tokenizer.ggml.pre`.

A wrong one loads, and cuts digits, contractions or spaces otherwise, without a word. So it is derived from the patterns
in tokenizer.json, an unknown one is refused, and what llama.cpp makes of texts is compared with the tokenizer before
anything is put in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CASED = (rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*")
SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
PATHS = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PATTERNS = {
    WORDS + r"|\p{N}{1,3}" + REST: ("dbrx", "llama-bpe"),
    WORDS + r"|\p{N}" + REST: ("qwen2", None),
    f"{CASED[0]}{SHORT}|{CASED[1]}{SHORT}" + r"|\p{N}{1,3}" + PATHS: ("gpt-4o", None),
    f"{CASED[0]}|{CASED[1]}" + r"|\p{N}" + PATHS: (None, "tekken"),
}
"""A pattern of tokenizer.json -> llama.cpp's names, without and with `ignore_merges` (words that are tokens are not
put together from their parts)."""

CUTS: dict[tuple[str, ...], str] = {
    (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"): "deepseek-coder"
}
"""Several patterns, one after the other -> llama.cpp's name."""


def name(tokenizer: Mapping[str, Any]) -> str | None:
    """llama.cpp's name for the steps of a tokenizer.json; None where it has none that is known here."""
    whole = bool(tokenizer["model"].get("ignore_merges"))
    steps = parts(tokenizer.get("pre_tokenizer"))
    if not steps or steps[-1].get("type") != "ByteLevel" or steps[-1].get("add_prefix_space", True):
        return None
    *before, last = steps
    if last.get("use_regex", True):
        return None if whole else plain(before)
    patterns = tuple(map(pattern, before))
    if len(patterns) != 1:
        return None if whole else CUTS.get(patterns)
    found = PATTERNS.get(patterns[0])
    return found[whole] if found else None


def pattern(step: Mapping[str, Any]) -> str:
    """Where a step cuts; empty for one that does it in another way."""
    if step.get("type") == "Digits" and step.get("individual_digits"):
        return r"\p{N}"
    found = step.get("pattern", {}).get("Regex") if isolated(step) else None
    return str(found or "").replace("\r", r"\r").replace("\n", r"\n")


def plain(before: list[dict[str, Any]]) -> str | None:
    """GPT-2's pattern, after nothing or after single digits."""
    if not before:
        return "gpt-2"
    digits = len(before) == 1 and before[0].get("type") == "Digits" and before[0].get("individual_digits")
    return "smollm" if digits else None


def isolated(step: Mapping[str, Any]) -> bool:
    return step.get("type") == "Split" and step.get("behavior") == "Isolated" and not step.get("invert")


def parts(step: Any) -> list[dict[str, Any]]:
    """The steps of a pre-tokenizer in order."""
    if not isinstance(step, dict):
        return []
    return list(step["pretokenizers"]) if step.get("type") == "Sequence" else [step]
