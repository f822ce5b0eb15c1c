"""What should not be learned because it is somebody's: keys, accounts, addresses. Every excerpt is masked.

Patterns find candidates; a check digit, a known prefix or a reserved name decides, so that numbers of a textbook and
addresses of a manual are none.
"""

from __future__ import annotations

import math
import re
from collections import Counter

from truetune.data.quality.limits import ENTROPY
from truetune.data.quality.said import Said

EMAIL = re.compile(r"(?<![\w.+/-])([A-Za-z0-9][\w.+-]{0,63})@((?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24})(?![\w@-])")
RESERVED = re.compile(
    r"(?:.+\.)?(?:example|test|invalid|localhost)|(?:.*[.-])?example\.[a-z]+"
    r"|(?:your|my|our|the)?(?:domain|email|e-?mail|mail|company|website|site|organi[sz]ation|business|school)\.(?:com|org|net|edu)"
    r"|(?:abc|xyz|acme)[a-z]*\.com",
    re.IGNORECASE,
)
"""Names that RFC 2606 reserves, and those that manuals use as if it did."""
PHONE = re.compile(r"(?:\+\d[\d ()-]{7,22}\d|(?:1[ .-])?(?:\([2-9]\d\d\) ?|[2-9]\d\d[.-])[2-9]\d\d[.-]\d{4})(?![\w/-])")
"""With a country's code, or as North America writes it."""
LEAD = re.compile(r"[\w.+/-]\Z")
SUM = re.compile(r"[\d=*)]\s{0,2}\Z")
"""Before a number these make it a part of something else; a plus and nothing but digits may be a sum."""
FICTION = re.compile(r"555|1234567|7654321|(\d)\1{5}")
"""Numbers of films (555) and of placeholders."""
IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?!\w)")
COUNTRIES = {
    15: "NO",
    16: "BE",
    18: "DK FI FO GL NL",
    19: "MK SI",
    20: "AT BA EE KZ LT LU XK",
    21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA",
    23: "AE GI IL IQ TL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST",
    26: "IS TR",
    27: "FR GR IT MC MR SM",
    28: "AL AZ BY CY DO GT HU LB PL SV",
    29: "BR EG PS QA UA",
    30: "JO KW MU",
    31: "MT SC",
    32: "LC",
}
"""By the characters of their IBAN (the registry of ISO 13616)."""
LENGTHS = {country: length for length, countries in COUNTRIES.items() for country in countries.split()}
CARD = re.compile(r"(?<![\w.+-])(?:\d{4}([ -]?)\d{4}\1\d{4}\1\d{4}|3[47]\d{2}([ -]?)\d{6}\2\d{5})(?![\w-])")
ISSUERS = re.compile(r"4|5[1-5]|2(?:22[1-9]|2[3-9]|[3-6]|7[01]|720)|3[47]|6011|64[4-9]|65|35(?:2[89]|[3-8])")
TRIALS = frozenset({"4111111111111111", "4242424242424242", "5555555555554444", "378282246310005", "4012888888881881"})
"""Numbers that the issuers give out for tests."""
DIGITS, CARD_DIGITS = 9, 15
"""The fewest of a phone number or an account, and of a card: rows with fewer are not searched."""
LONG = 16
"""Characters of the shortest key."""
PIECE = 12
"""Characters without a hyphen that a key has at the least."""
KEY = re.compile(
    r"(?<![\w-])(?:AKIA[0-9A-Z]{16}|ASIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{50,}|glpat-[\w-]{20,}"
    r"|sk-(?:proj-|ant-|svcacct-|or-)?[\w-]{20,}|[sr]k_live_[A-Za-z0-9]{16,}|xox[abeoprs]-[\w-]{16,}|AIza[\w-]{35}"
    r"|hf_[A-Za-z0-9]{30,}|npm_[A-Za-z0-9]{36}|pypi-[\w-]{50,}|SG\.[\w-]{16,}\.[\w-]{16,}|ya29\.[\w-]{20,}"
    r"|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,})"
)
"""Prefixes that services give to their keys so that they are found; the last is a signed JSON web token."""
SECRET = re.compile(
    r"(?i)(?:pass(?:word|wd|phrase)?|secret|token|api[_-]?key|access[_-]?key)['\"]?\s{0,3}[:=]\s{0,3}['\"]([\w+/=.-]{16,128})['\"]"
)
ARMOUR = re.compile(r"-----BEGIN (?:[A-Z]+ ){0,2}PRIVATE KEY(?: BLOCK)?-----\s+[\w+/=:,. -]{16}")


def private_key(said: Said) -> str:
    found = ARMOUR.search(said.text) if "PRIVATE KEY" in said.text else None
    return "-----BEGIN … PRIVATE KEY-----" if found else ""


def api_key(said: Said) -> str:
    words = [word for word in said.text.split() if len(word) >= LONG]
    for word in words:
        found = KEY.search(word)
        if found and _mixed(found[0]):
            return masked(found[0])
    for found in SECRET.finditer(said.text) if words else ():
        if _mixed(found[1]) and entropy(found[1]) >= ENTROPY:
            return masked(found[1])
    return ""


def email(said: Said) -> str:
    for found in EMAIL.finditer(said.text) if "@" in said.text else ():
        if not RESERVED.fullmatch(found[2]):
            return f"{found[1][0]}•••@{found[2][0]}•••.{found[2].rpartition('.')[2]}"
    return ""


def phone(said: Said) -> str:
    for found in PHONE.finditer(said.text) if said.digits >= DIGITS else ():
        digits = re.sub(r"\D", "", found[0])
        plain = found[0][1:].isdigit()
        before = said.text[max(0, found.start() - 3) : found.start()]
        if LEAD.search(before) or (plain and SUM.search(before)) or FICTION.search(digits):
            continue
        if DIGITS <= len(digits) <= (13 if plain else 15):
            return masked(found[0])
    return ""


def iban(said: Said) -> str:
    """Check digits as ISO 7064 (mod 97-10) has them."""
    for found in IBAN.finditer(said.text) if said.digits >= DIGITS else ():
        account = found[0].replace(" ", "")
        number = account[: LENGTHS.get(account[:2], 0)]
        if len(number) == LENGTHS.get(account[:2]) and _remainder(number) == 1:
            return masked(number)
    return ""


def _remainder(number: str) -> int:
    return int("".join(str(int(char, 36)) for char in number[4:] + number[:4])) % 97


def card(said: Said) -> str:
    for found in CARD.finditer(said.text) if said.digits >= CARD_DIGITS else ():
        digits = re.sub(r"\D", "", found[0])
        if ISSUERS.match(digits) and digits not in TRIALS and luhn(digits):
            return masked(found[0])
    return ""


def luhn(digits: str) -> bool:
    """The check digit of card numbers (ISO/IEC 7812-1, annex B)."""
    return sum(_doubled(int(digit), place) for place, digit in enumerate(reversed(digits))) % 10 == 0


def _doubled(digit: int, place: int) -> int:
    return sum(divmod(digit * 2, 10)) if place % 2 else digit


def entropy(text: str) -> float:
    """Bits per character (Shannon, 1948)."""
    return -sum(count / len(text) * math.log2(count / len(text)) for count in Counter(text).values())


def masked(text: str) -> str:
    """Enough to find it again, not enough to use it."""
    return f"{text[:4]}•••{text[-2:]}" if len(text) > 10 else f"{text[:2]}•••"


def _mixed(text: str) -> bool:
    """A long piece with digits and letters: `sk-your-api-key-goes-here` and `sk-learn-tutorial-2024` have none."""
    piece = max(text.split("-"), key=len)
    return len(piece) >= PIECE and any(map(str.isdigit, piece)) and any(map(str.isalpha, piece))
