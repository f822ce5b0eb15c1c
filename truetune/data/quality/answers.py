"""Answers that teach the wrong thing: placeholders, echoes, loops, and those that stop too early."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from truetune.data.quality import limits
from truetune.data.quality.said import Said, excerpt

EMPTY = frozenset(
    {
        "todo",
        "to do",
        "tbd",
        "tba",
        "fixme",
        "n/a",
        "n.a.",
        "nan",
        "null",
        "placeholder",
        "to be determined",
        "to be added",
    }
    | {
        "coming soon",
        "answer",
        "answer here",
        "your answer",
        "your answer here",
        "insert answer here",
        "write answer here",
    }
    | {"add answer here", "response", "your response here", "output", "asdf", "xxx", "lorem ipsum"}
)
FILLER = re.compile(r"[\s.,;:_*#/…?!-]+")
LOREM = re.compile(r"lorem ipsum dolor", re.IGNORECASE)
SELF = r"an? (?:AI|artificial intelligence)(?: language)?(?: model| assistant| chatbot)?"
MODEL = re.compile(
    rf"\bas {SELF}(?:,| I\b)|\bas a (?:large )?language model\b"
    rf"|\bI(?:'m|’m| am) (?:just |only |merely )?{SELF}(?:[,.]| and\b| so\b)",
    re.IGNORECASE,
)
PERSONA = re.compile(
    r"\b(?:are you|who you are|your name|as an AI|language model|chatbot"
    r"|you(?:'re| are) an? (?:[\w-]+ ){0,3}(?:AI|assistant|bot|model|robot))\b",
    re.IGNORECASE,
)
"""Where a prompt asks for it, the answer may say what it is."""
FENCES = re.compile(r"^[ \t>]*(```+)", re.MULTILINE)
STOPS = re.compile(r"[.!?。！？।؟][\"'”’)\]]*\s")
ITEM = re.compile(r"\s*(?:[-*•–#>|~+]|\(?\w{1,3}[.)]\s)")
OPEN_END = re.compile(r"(?:[^\W\d_]|[,;(\[{–—-])\Z")
TAIL = re.compile(r"(?:[#@]\S+|https?://\S+|www\.\S+|\S+\.[a-z]{2,4}/\S*|[\"”’']\s*[-–—(].{1,60})\Z")
"""A line may end so: a hashtag, a link, whom a quotation is from."""


def placeholder(said: Said) -> str:
    for answer in said.answers:
        text = answer.strip()
        if len(text) <= limits.PLACEHOLDER and (
            FILLER.fullmatch(text) or text.casefold().strip("<>[](){}.*_ ") in EMPTY
        ):
            return excerpt(text)
        if LOREM.match(text) and "lorem" not in " ".join(said.prompts).casefold():
            return excerpt(text)
    return ""


def disclaimer(said: Said) -> str:
    for answer in said.answers:
        found = MODEL.search(answer) if "language model" in answer or "AI" in answer or "rtificial" in answer else None
        if found and not any(PERSONA.search(prompt) for prompt in said.prompts):
            return excerpt(answer, *found.span())
    return ""


def echo(said: Said) -> str:
    for question, answer in said.asked:
        same = abs(len(question) - len(answer)) < 20 and len(answer) >= limits.ECHO
        if same and question.casefold().split() == answer.casefold().split():
            return excerpt(answer)
    return ""


def repeated(said: Said) -> str:
    return next(filter(None, map(loop, said.answers)), "")


def loop(text: str) -> str:
    """The unit that a text repeats, at least LOOP_TIMES in a row; empty if there is none."""
    words = text[-limits.LOOP_TEXT :].split()
    if _doubled(words, 4) >= limits.LOOP_WORDS // 2:
        found = _round(words, limits.LOOP_PERIOD, limits.LOOP_WORDS, " ")
        if found:
            return found
    unspaced = "".join(words) if len(words) * 15 < len(text) else max(words, key=len, default="")
    if len(unspaced) < limits.LOOP_LETTERS or _doubled(unspaced, 4) < limits.LOOP_LETTERS // 2:
        return ""
    return _round(unspaced, 2 * limits.LOOP_PERIOD, limits.LOOP_LETTERS, "")


def _doubled(units: Sequence[str], size: int) -> int:
    """How many of the sequences of `size` units stand there not for the first time. Prose has a few in a page."""
    return max(0, len(units) - size + 1) - len(set(zip(*(units[start:] for start in range(size)), strict=False)))


def _round(units: Sequence[str], longest: int, least: int, glue: str) -> str:
    """Look for the shortest period `p` with a long run of `units[i] == units[i - p]`."""
    known: dict[str, int] = {}
    ids = np.fromiter((known.setdefault(unit, len(known)) for unit in units), np.int64, len(units))
    for period in range(1, min(longest, len(units) // limits.LOOP_TIMES) + 1):
        start, length = _run(ids[period:] == ids[:-period])
        covered = length + period
        sure = covered >= limits.LOOP_SURE * period or covered >= limits.LOOP_SHARE * len(units)
        if not sure or covered < max(limits.LOOP_TIMES * period, least):
            continue
        unit = glue.join(units[start : start + period])
        if sum(map(str.isalpha, unit)) >= 2:
            return excerpt(unit)
    return ""


def _run(same: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> tuple[int, int]:
    """Where the longest run of True begins, and its length."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], same.view(np.int8), [0]))))
    if not len(edges):
        return 0, 0
    lengths = edges[1::2] - edges[::2]
    best = int(lengths.argmax())
    return int(edges[2 * best]), int(lengths[best])


def fence(said: Said) -> str:
    for answer in said.answers:
        odd = "```" in answer and answer.count("```") % 2 and len(FENCES.findall(answer)) % 2
        if odd and "````" not in answer:
            return excerpt(answer, answer.rindex("```"), answer.rindex("```") + 3)
    return ""


def cut(said: Said) -> str:
    """Prose that had full stops and ends without one. Verses, lists, titles and signatures end as they like."""
    for answer in said.answers if said.prose else ():
        text = answer.rstrip()
        if len(text) < limits.CUT_LENGTH or not OPEN_END.search(text, len(text) - 1) or text.count("```") % 2:
            continue
        *others, line = text.splitlines()
        long = len(line) >= limits.CUT_LINE and len(line.split()) >= limits.CUT_WORDS and not TAIL.search(line)
        if long and _punctuated(line, others):
            return excerpt(text, len(text) - 1, len(text))
    return ""


def _punctuated(line: str, others: Sequence[str]) -> bool:
    """Whether who wrote this ends sentences with a stop: earlier in the line, or in all other lines of its kind."""
    item = bool(ITEM.match(line))
    if not item and STOPS.search(line):
        return True
    alike = [other for other in others if len(other) >= limits.CUT_LINE and bool(ITEM.match(other)) == item]
    return len(alike) >= limits.CUT_OTHERS and all(STOPS.search(other + " ", len(other) - 3) for other in alike)
