"""The word lists of `words.txt`, and the little English grammar that the generators share."""

from __future__ import annotations

from pathlib import Path
from random import Random

VOWELS = "aeiou"
DOUBLED = {
    "stop",
    "plan",
    "drop",
    "wrap",
    "hug",
    "nod",
    "grab",
    "chat",
    "cut",
    "run",
    "swim",
    "sit",
    "hit",
    "get",
    "win",
}


def load(path: Path) -> dict[str, list[str]]:
    """Section name -> its words; a section with `|` holds phrases."""
    sections: dict[str, list[str]] = {}
    name, body = "", list[str]()
    for line in [*path.read_text().splitlines(), "["]:
        if line.startswith("["):
            if body:
                text = " ".join(body)
                parts = text.split("|") if "|" in text else text.split()
                sections[name] = [part.strip() for part in parts if part.strip()]
            name, body = line.strip("[]"), []
        elif not line.startswith("#"):
            body.append(line)
    return sections


WORDS = load(Path(__file__).with_name("words.txt"))
PAST = dict(pair.split(":") for pair in WORDS.pop("past"))
IRREGULAR = dict(pair.split(":") for pair in WORDS.pop("plural"))
NAMES = WORDS["girls"] + WORDS["boys"]
NOUNS = WORDS["animals"] + WORDS["foods"] + WORDS["things"]
ALL = sorted({word for section in WORDS.values() for word in section if " " not in word})


def pick(rng: Random, section: str) -> str:
    return rng.choice(WORDS[section])


def sample(rng: Random, section: str, count: int) -> list[str]:
    return rng.sample(WORDS[section], count)


def plural(noun: str) -> str:
    head, _, last = noun.rpartition(" ")
    if last in IRREGULAR:
        last = IRREGULAR[last]
    elif last.endswith("y") and last[-2] not in VOWELS:
        last = last[:-1] + "ies"
    elif last.endswith(("s", "x", "z", "ch", "sh", "tomato", "potato", "mango")):
        last += "es"
    else:
        last += "s"
    return f"{head} {last}".strip()


def past(verb: str) -> str:
    if verb in PAST:
        return PAST[verb]
    if verb.endswith("e"):
        return verb + "d"
    if verb.endswith("y") and verb[-2] not in VOWELS:
        return verb[:-1] + "ied"
    return (verb + verb[-1] if verb in DOUBLED else verb) + "ed"


def third(verb: str) -> str:
    if verb.endswith("y") and verb[-2] not in VOWELS:
        return verb[:-1] + "ies"
    return verb + ("es" if verb.endswith(("s", "x", "z", "ch", "sh", "go", "do")) else "s")


def ing(verb: str) -> str:
    if verb.endswith("ie"):
        return verb[:-2] + "ying"
    if verb.endswith("e") and not verb.endswith("ee"):
        return verb[:-1] + "ing"
    return (verb + verb[-1] if verb in DOUBLED else verb) + "ing"


def a(phrase: str) -> str:
    """The phrase with its indefinite article."""
    silent = phrase.startswith(("honest", "hour"))
    hard = phrase.startswith(("uni", "use", "usu", "one", "eur"))
    return ("an " if silent or (phrase[0].lower() in VOWELS and not hard) else "a ") + phrase


def cap(text: str) -> str:
    return text[:1].upper() + text[1:]


def join(items: list[str], word: str = "and") -> str:
    """`a, b and c`."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {word} {items[-1]}"


def person(rng: Random) -> tuple[str, str, str, str]:
    """A name with its pronouns: (Anna, she, her, her)."""
    if rng.random() < 0.5:
        return pick(rng, "girls"), "she", "her", "her"
    return pick(rng, "boys"), "he", "him", "his"


def phrase(rng: Random, section: str) -> str:
    """A noun of the section, often with an adjective or a colour, without article."""
    noun = pick(rng, section)
    roll = rng.random()
    if roll < 0.35:
        return f"{pick(rng, 'adjectives')} {noun}"
    return f"{pick(rng, 'colors')} {noun}" if roll < 0.5 else noun


def subject(rng: Random) -> str:
    roll = rng.random()
    if roll < 0.4:
        return rng.choice(NAMES)
    if roll < 0.7:
        return f"the {phrase(rng, 'jobs')}"
    return f"{rng.choice(['the', 'a', 'my', 'our', 'her', 'his'])} {pick(rng, 'animals')}"


def sentence(rng: Random) -> str:
    """A random sentence in the past tense: grammar and vocabulary, little sense."""
    thing = (
        f"{rng.choice(['the', 'a', 'every', 'this', 'that'])} {phrase(rng, rng.choice(['things', 'foods', 'animals']))}"
    )
    place = f"{rng.choice(['in', 'near', 'behind'])} the {pick(rng, 'rooms')}"
    roll = rng.random()
    if roll < 0.6:
        text = f"{subject(rng)} {past(pick(rng, 'transitive'))} {thing}"
    elif roll < 0.85:
        text = f"{subject(rng)} {past(pick(rng, 'intransitive'))} {pick(rng, 'adverbs')}"
    else:
        text = f"the {pick(rng, 'nouns_extra')} of the {pick(rng, 'abstract')} was {pick(rng, 'adjectives')}"
    tail = rng.choice(
        ["", f" {place}", f" {pick(rng, 'times')}", f" with {rng.choice(NAMES)}", f" because {clause(rng)}"]
    )
    text = (cap(text) + tail + ".").replace(" a a", " an a").replace(" a e", " an e").replace(" a o", " an o")
    return text.replace(" a i", " an i")


def clause(rng: Random) -> str:
    name, pronoun, _, own = person(rng)
    return rng.choice(
        [
            f"{name} was {pick(rng, 'adjectives')}",
            f"{pronoun} needed {a(pick(rng, 'things'))}",
            f"{pronoun} wanted to {pick(rng, 'verbs_extra')} {own} {pick(rng, 'nouns_extra')}",
            f"the {pick(rng, 'abstract')} seemed {pick(rng, 'adjectives')}",
            f"{name} had to {pick(rng, 'intransitive')}",
        ]
    )
