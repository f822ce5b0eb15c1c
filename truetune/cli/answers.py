"""Questions with the answers before and after a training, as `ft demo` and `ft chat --demo` show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from truetune.cli import visible
from truetune.cli.common import Output

LONGEST = 300
"""Characters of an answer that are shown; the document has all of it."""
MARKS = {True: "  ✓", False: "  ✗", None: ""}
STYLES = {"before": "red", "after": "green", "row": "dim"}


def beside(out: Output, rows: Sequence[Mapping[str, Any]], *, texts: bool = False) -> None:
    """Each row of {question, before, after, row}; a mark where it says whether the answer is `right`. `texts`: the
    question is the beginning of a text, and the others are how it goes on."""
    for row in rows:
        out.print(Text(f"\n{visible(row['question'])}{' …' if texts else ''}", "bold"))
        for name, style in STYLES.items():
            mark = MARKS[row.get("right")] if name == "after" else ""
            label = "text" if texts and name == "row" else name
            out.print(Text(f"  {label:<7} {visible(shortened(row[name])) or '(nothing)'}{mark}", style))


def verbatim(rows: Sequence[Mapping[str, str]]) -> str:
    """How many answers are word for word those of their row."""
    same = sum(row["after"].strip() == row["row"].strip() for row in rows)
    if len(rows) == 1:
        return f"This held-out question is {'' if same else 'not '}answered word for word as its row."
    verb, theirs = ("is", "its") if same == 1 else ("are", "their")
    return f"{same} of these {len(rows)} held-out questions {verb} answered word for word as {theirs} row."


def shortened(text: str) -> str:
    """In one line, and no longer than a person reads here."""
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST].rstrip()} …"
