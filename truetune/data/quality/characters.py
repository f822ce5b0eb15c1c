"""Characters that should not stand in a text: controls, lost ones, wrong encodings. ftfy knows what mojibake is."""

from __future__ import annotations

import re
import unicodedata

from truetune.data.quality.said import Said, excerpt

try:
    import ftfy
    from ftfy import badness
except ImportError:  # the extra `quality`
    ftfy = badness = None  # type: ignore[assignment]

TURNING = re.compile("[\u202a-\u202e\u2066-\u2069]")
"""Turns the direction of writing."""
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
"""Tab, line feed and carriage return are text."""
INVISIBLE = re.compile(
    "[\u00ad\u202a-\u202e\u2060\u2066-\u2069\ufff9-\ufffb]"
    "|\ufeff"
    "|(?<![\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff])\u200b"  # it parts words in Thai, Lao, Burmese, Khmer
    "|(?<![\U0001f3f4\U000e0020-\U000e007f])[\U000e0020-\U000e007f]+"  # behind a black flag they name a region
)
"""Soft hyphens, zero-width spaces and marks, what turns the line, tag characters: unseen, and tokens of their own.
Joiners are spelling."""
MISSING = [] if ftfy else ["ftfy"]
"""Libraries that are not installed."""
UNUSUAL = re.compile("[^\x00-\x7f\u00a0\u2018-\u201d\u2013\u2014\u2026\u2022\u00b0\u00b7\u20ac\u00a3]")
"""What mojibake has at least one of; texts with mere typography are not searched, which takes its time."""
LOST = "\ufffd"
TRAILING = re.compile(r"(?:[ \t\u00a0\u3000]|[\r\n]\s)\s*\Z|\s{2,}\Z")
"""White space at the very end; a single line break is a habit of files."""


UNSEEN = re.compile("[\u00ad\u200b\u202a-\u202e\u2060\u2066-\u2069\ufeff\ufff9-\ufffb\U000e0020-\U000e007f]")
"""Candidates: a plain class of characters is searched far faster than what may stand before them."""


def control(said: Said) -> str:
    return _around(said.text, CONTROL.search(said.text))


def invisible(said: Said) -> str:
    if said.ascii or not UNSEEN.search(said.text):
        return ""
    return _around(said.text, INVISIBLE.search(said.text))


def replacement(said: Said) -> str:
    place = -1 if said.ascii else said.text.find(LOST)
    return excerpt(said.text, place, place + 1) if place >= 0 else ""


def mojibake(said: Said) -> str:
    """Bad by ftfy's count of character sequences that no writer makes, and another text once it is decoded anew."""
    if said.ascii or badness is None or not UNUSUAL.search(said.text) or not badness.is_bad(said.text):
        return ""
    for text in (*said.prompts, *said.answers):
        if badness.is_bad(text) and recode(text) != text:
            found = badness.BADNESS_RE.search(text)
            return _around(text, found)
    return ""


def recode(text: str) -> str:
    """Undo a wrong decoding. Quotes, ligatures and widths stay as they are: those somebody may have meant."""
    return text if ftfy is None or text.isascii() else str(ftfy.fix_encoding(text))


def decomposed(said: Said) -> str:
    if said.ascii or unicodedata.is_normalized("NFC", said.text):
        return ""
    words = (word for word in said.text.split() if not unicodedata.is_normalized("NFC", word))
    return excerpt(next(words, said.text))


def trailing(said: Said) -> str:
    for answer in said.answers:
        if answer[-1:].isspace() and TRAILING.search(answer, max(0, len(answer) - 100)):
            return repr(answer[-20:])
    return ""


def _around(text: str, found: re.Match[str] | None) -> str:
    return excerpt(text, *found.span()) if found else ""
