"""Two thousand clean rows of invented questions and answers, and every defect that can be planted into them."""

from __future__ import annotations

import random
from collections.abc import Callable

from truetune.data.rows import Conversation, Turn

WHO = ["A gardener", "My neighbour", "The baker", "Our teacher", "A young sailor", "The librarian",
       "A retired engineer", "The nurse", "A musician", "The mayor", "Her cousin", "A bicycle courier"]  # fmt: skip
DOES = ["keeps", "repairs", "paints", "collects", "measures", "describes", "photographs", "sells", "borrows", "studies"]
WHAT = ["old clocks", "tall ladders", "wooden boats", "copper kettles", "maps of rivers", "winter coats", "kites",
        "rare stamps", "stone bridges", "apple trees", "letters", "small engines", "paper lanterns"]  # fmt: skip
WHY = ["because the work calms the mind", "so that nothing useful is thrown away", "to learn how they were made",
       "as a present for the children", "while the weather is bad", "for a fair in the spring",
       "in spite of the high price", "with tools from the attic", "before the first frost comes"]  # fmt: skip
WHEN = ["In the morning", "Twice a week", "Since last summer", "On quiet days", "After lunch", "Late in the year",
        "During the holidays", "Once a month"]  # fmt: skip
ASK = ["What does {who} do with {what}?", "Describe in a few sentences how {who} spends the day with {what}.",
       "Why are {what} important to {who}?", "Write about {who} and {what}."]  # fmt: skip
OTHERS = [
    "Result: {n} of {m} pieces (about {p} %).",
    "```python\ndef area(width, height):\n    return width * height + {n}\n```\nThe function adds {n} at the end.",
    "1. Sort the {what}.\n2. Clean them with warm water\n3. Let them dry for {n} hours",
    "| thing | count |\n|---|---|\n| {what} | {n} |\n| others | {m} |",
    "Dear Sam,\n\nthank you for the {what}. I shall bring them back on the {n}th.\n\nYours,\nAlex",
    "“Nothing lasts like {what},” said {who} in {year}, “and nothing is lost as easily.”",
    "The order number is 2024-{n}-{m}, it costs {n}.{p} euros and weighs {m} grams; 3.14159265 is pi.",
    "Yes, {n}.",
    "Write to support@example.com, or call 555-0{p} between {n} and {m}.",
    "no, no, no, no: that is the refrain, and {who} sings it {n} times. Then the café closes – naïve, but true.",
    "Use `git log -{n}` and `print({m})`; the key goes where YOUR_API_KEY stands: api_key = 'your-api-key-goes-here'.",
]


def clean(count: int = 2000, seed: int = 7) -> list[tuple[str, str]]:
    """Questions and answers, all different: prose of one to six sentences, and one in six in another form."""
    chance = random.Random(seed)
    rows: dict[tuple[str, str], None] = {}
    while len(rows) < count:
        who, what = chance.choice(WHO), chance.choice(WHAT)
        question = chance.choice(ASK).format(who=who[0].lower() + who[1:], what=what)
        if chance.random() < 1 / 6:
            numbers = {"n": chance.randint(2, 999), "m": chance.randint(1000, 9999), "p": chance.randint(10, 99)}
            names = {"who": who, "what": what, "year": chance.randint(1850, 1990)}
            answer = chance.choice(OTHERS).format(**numbers, **names)
        else:
            answer = " ".join(_sentence(chance, what) for _ in range(chance.randint(1, 6)))
        rows[question, answer] = None
    return list(rows)


def _sentence(chance: random.Random, what: str) -> str:
    who, does, why, when = (chance.choice(words) for words in (WHO, DOES, WHY, WHEN))
    return f"{when} {who[0].lower()}{who[1:]} {does} {what} {why}."


def prose(rows: list[tuple[str, str]]) -> list[int]:
    """Rows that a defect of prose can be planted in."""
    return [place for place, (_, answer) in enumerate(rows) if _is_prose(answer)]


def _is_prose(answer: str) -> bool:
    last = answer.rstrip().splitlines()[-1]
    sentences = last[0].isalpha() and len(last) > 110 and ". " in last[:-40] and last[-1] == "."
    return sentences and answer.count(". ") >= 2 and len(answer) > 250


def talk(question: str, answer: str) -> Conversation:
    return Conversation((Turn("user", question), Turn("assistant", answer)))


def _middle(text: str, what: str) -> str:
    place = text.find(" ", len(text) // 2)
    return f"{text[:place]} {what}{text[place:]}"


def _account(chance: random.Random) -> str:
    body = f"{chance.randrange(10**18):018d}"
    return f"DE{98 - int(body + '131400') % 97:02d}{body}"


def _card(chance: random.Random) -> str:
    body = f"4{chance.randrange(10**14):014d}"
    odd = sum(sum(divmod(int(digit) * 2, 10)) for digit in body[::2])
    digits = f"{body}{-(odd + sum(map(int, body[1::2]))) % 10}"
    return " ".join(digits[at : at + 4] for at in range(0, 16, 4))


def _letters(chance: random.Random, count: int) -> str:
    return "".join(chance.choice("abcdefghijkmnpqrstuvwxyzABCDEFGHJKLM23456789") for _ in range(count - 2)) + "7a"


def _key(chance: random.Random) -> str:
    """Put together here, so that no file of the project looks as if it held one."""
    kinds = {"gh" + "p_": 36, "s" + "k-": 40, "h" + "f_": 34, "s" + "k-ant-": 60}
    start, length = chance.choice(list(kinds.items()))
    amazon = "AKI" + "A" + _letters(chance, 16).upper()
    return chance.choice([start + _letters(chance, length), amazon, "pass" + f"word = '{_letters(chance, 24)}'"])


def _wrong(text: str) -> str:
    """UTF-8 that was read as Windows-1252."""
    return _middle(text, "für das Café – “schön”, naïve Ärzte").encode().decode("cp1252", errors="ignore")


Plant = Callable[[random.Random, str, str], tuple[str, str]]


def _answer(change: Callable[[random.Random, str], str]) -> Plant:
    return lambda chance, question, answer: (question, change(chance, answer))


PLANTS: dict[str, Plant] = {
    "data.control_characters": _answer(lambda c, a: _middle(a, c.choice("\x07\x08\x0b\x1b\x7f\x85\x00"))),
    "data.invisible_characters": _answer(lambda c, a: a.replace(" ", c.choice("\u200b\ufeff\u2060\u00ad") + " ", 1)),
    "data.replacement_character": _answer(lambda c, a: _middle(a, "caf\ufffd")),
    "data.mojibake": _answer(lambda c, a: _wrong(a)),
    "data.not_normalized": _answer(lambda c, a: _middle(a, c.choice(["cafe\u0301", "u\u0308ber", "A\u030angstrom"]))),
    "data.trailing_space": _answer(lambda c, a: a + c.choice([" ", "\n\n", "\t", "   \n"])),
    "data.placeholder": _answer(
        lambda c, a: c.choice(["TODO", "N/A", "...", "<answer>", "[Your answer here]", "TBD.", "nan"])),
    "data.disclaimer": _answer(
        lambda c, a: c.choice(["As an AI language model, I have no clocks. ", "I'm just an AI, so I can't say. ",
                               "Speaking as a large language model I know little. "]) + a),
    "data.echo": lambda c, q, a: (q, c.choice([q, q.upper(), f" {q}\n".strip()])),
    "data.repeated_text": _answer(
        lambda c, a: c.choice([a + (" and then the same again" * 8), (max(a.split(". "), key=len) + ". ") * 6 + a,
                               a + "\n" + "我们再说一遍这句话。" * 12, a + " very" * 60])),
    "data.open_fence": _answer(lambda c, a: a + "\n```python\nprint(1)"),
    "data.cut_off": _answer(
        lambda c, a: a[: c.randrange(len(a) - 40, len(a) - 3)].rstrip(" .") + c.choice(["", ",", " the"])),
    "data.private_key": _answer(
        lambda c, a: f"{a}\n-----BEGIN {c.choice(['', 'RSA ', 'OPENSSH '])}PRIVATE" + f" KEY-----\n{_letters(c, 64)}"),
    "data.api_key": _answer(lambda c, a: _middle(a, _key(c))),
    "data.card": _answer(lambda c, a: _middle(a, _card(c).replace(" ", c.choice([" ", "-", ""])))),
    "data.iban": _answer(lambda c, a: _middle(a, _account(c))),
    "data.email": lambda c, q, a: (
        _middle(q, c.choice(["anna.weber@gmx.de", "j_doe+x@mail.uni.ac.uk", "tom@firm.io"])), a),
    "data.phone": _answer(lambda c, a: _middle(a, c.choice(["+49 30 90182-344", "(212) 736-5000", "+1-415-982-6003",
                                                             "+442079460018", "312-443-3600"]))),
}  # fmt: skip
"""How a defect gets into a clean row."""
