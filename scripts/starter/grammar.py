"""Patterns that stand for many sentences: `(a|b|)` chooses, `<name>` is one of the phrases, `{name}` a drawn value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from random import Random

from words import plural

Node = str | tuple[list["Node"], ...]
"""Text, or alternatives, each a sequence of nodes."""
PARTS = re.compile(r"[()|]|[^()|]+")


def phrases(path: Path) -> dict[str, str]:
    """Name -> its alternatives as one pattern."""
    lines = [line for line in path.read_text("utf-8").splitlines() if not line.startswith("#")]
    return {
        name.strip(): f"({text.strip().replace(' | ', '|')})" for name, _, text in (s.partition("=") for s in lines)
    }


PHRASES = phrases(Path(__file__).with_name("phrases.txt"))


def parse(pattern: str) -> list[Node]:
    """The sequence of nodes of a pattern, its phrases written out."""
    while "<" in pattern:
        pattern = re.sub(r"<(\w+)>", lambda found: PHRASES[found[1]], pattern)
    stack: list[list[list[Node]]] = [[[]]]
    for part in PARTS.findall(pattern):
        if part == "(":
            stack.append([[]])
        elif part == "|":
            stack[-1].append([])
        elif part == ")":
            done = tuple(stack.pop())
            stack[-1][-1].append(done)
        else:
            stack[-1][-1].append(part)
    ((sequence,),) = stack
    return sequence


def expand(rng: Random, nodes: list[Node]) -> str:
    """One of the sentences, its values still in braces."""
    return "".join(node if isinstance(node, str) else expand(rng, rng.choice(node)) for node in nodes)


def fill(text: str, values: Mapping[str, str]) -> str:
    """Values in their places, `{name}s` in the plural, spaces and articles put right."""
    text = re.sub(r"\{(\w+?)\}s\b", lambda found: plural(values[found[1]]), text)
    text = re.sub(r"\{(\w+?)\}", lambda found: values[found[1]], text)
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r" ([?.,!])", r"\1", text)
    text = re.sub(r"\b([Dd])o your (?=shop|store|company)", r"\1oes your ", text)
    return re.sub(r"\b([Aa]) (?=[aeio])", r"\1n ", text)
