"""The three ways to make a row of rows. Each asks a speaker in short prompts (`PROMPTS`) and makes conversations of
what it says; whether those are any good is for `sieve.py` to say.

- paraphrase: the question in other words, the answer stays
- backtranslate: the question into another language and back, the answer stays (Sennrich et al., ACL 2016)
- synthetic: a new question with its answer, after a few examples (Wang et al., "Self-Instruct", ACL 2023)
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from truetune.augment.seeds import Seed
from truetune.data.rows import Conversation

Messages = Sequence[Mapping[str, str]]
Ask = Callable[[Sequence[Messages]], list[str]]
"""Prompts to answers, one for each; an empty one where there is none."""
Origins = tuple[Seed, ...]
"""What a prompt is made of: one row, or examples."""

PROMPTS = {
    "paraphrase": (
        "Write the following message in other words. Keep its meaning, its language, and every name and number. "
        "Answer with the new wording only.\n\n{text}"
    ),
    "translate": "Translate the following message into {language}. Answer with the translation only.\n\n{text}",
    "synthetic": (
        "These are questions and answers of one collection.\n\n{text}\n\n"
        "Write one more question that could stand there and is not among them, and its answer, in the same form."
    ),
}
EXAMPLE = "Question: {question}\nAnswer: {answer}"
LABELS = ("Question:", "Answer:")
"""As in EXAMPLE: what comes before a question, and before its answer."""
THOUGHT = "</think>"
"""What ends the thoughts of a model that thinks aloud."""
QUOTES = (('"', '"'), ("“", "”"), ("„", "“"), ("«", "»"), ("'", "'"))


@dataclass(frozen=True)
class Draft:
    """What was made of an answer, before it is checked; `conversation` is None where the answer has another form."""

    origins: Origins
    conversation: Conversation | None
    said: str
    """The answer itself; empty where there was none."""

    @property
    def talk(self) -> Conversation:
        """The conversation of a draft that is kept."""
        assert self.conversation is not None
        return self.conversation

    @property
    def where(self) -> str:
        """The places of the rows that it is made from."""
        return ", ".join(one.where for one in self.origins)


@dataclass(frozen=True)
class Method:
    """`write` makes a draft for each group of `examples` rows; `simple` rows are a single question and its answer."""

    name: str
    write: Callable[[Sequence[Origins], Ask], list[Draft]]
    examples: int = 1

    @property
    def simple(self) -> bool:
        return self.examples > 1

    @property
    def keeps(self) -> bool:
        """Whether the new question means what the old one means."""
        return self.examples == 1

    def groups(self, seeds: Sequence[Seed], per_row: int, seed: int) -> list[Origins]:
        """What is asked for, in order: each row `per_row` times, with others as examples where the method has them.

        The others are drawn by `seed`; of fewer rows than examples, all are shown.
        """
        drawn = random.Random(seed)
        more = min(self.examples, len(seeds)) - 1
        groups = []
        for place, one in enumerate(seeds):
            for _ in range(per_row):
                others = drawn.sample(range(len(seeds) - 1), more) if more > 0 else []
                groups.append((one, *(seeds[other + (other >= place)] for other in others)))
        return groups


def prompt(name: str, **words: str) -> Messages:
    return [{"role": "user", "content": PROMPTS[name].format(**words)}]


def paraphrase(groups: Sequence[Origins], ask: Ask) -> list[Draft]:
    return reworded(groups, ask([prompt("paraphrase", text=one.question) for (one,) in groups]))


def backtranslate(via: str, language: str) -> Callable[[Sequence[Origins], Ask], list[Draft]]:
    """Through `via` and back into `language`. Where the way there fails, nothing is asked for the way back."""

    def write(groups: Sequence[Origins], ask: Ask) -> list[Draft]:
        there = ask([prompt("translate", text=one.question, language=via) for (one,) in groups])
        arrived = [place for place, text in enumerate(there) if clean(text)]
        back = ask([prompt("translate", text=clean(there[place]), language=language) for place in arrived])
        texts = dict(zip(arrived, back, strict=True))
        return reworded(groups, [texts.get(place, "") for place in range(len(groups))])

    return write


def reworded(groups: Sequence[Origins], texts: Sequence[str]) -> list[Draft]:
    """The rows with these questions instead of their own."""
    drafts = []
    for (one,), text in zip(groups, texts, strict=True):
        question = clean(text, one.question)
        drafts.append(Draft((one,), one.asked(question) if question else None, question))
    return drafts


def synthetic(groups: Sequence[Origins], ask: Ask) -> list[Draft]:
    texts = ask([prompt("synthetic", text="\n\n".join(map(shown, group))) for group in groups])
    return [Draft(group, pair(group[0], clean(text)), clean(text)) for group, text in zip(groups, texts, strict=True)]


def shown(one: Seed) -> str:
    return EXAMPLE.format(question=one.question, answer=one.answer)


def pair(one: Seed, text: str) -> Conversation | None:
    """The first question and answer that were written; None where they are not in the form that was asked for."""
    before, after = LABELS
    question, _, rest = text.partition(before)[2].partition(after)
    answer = rest.partition(f"\n{before}")[0]
    return one.another(question.strip(), answer.strip()) if question.strip() and answer.strip() else None


def clean(text: str, source: str = "") -> str:
    """What was said without thoughts before it, spaces and quotes around it; quotes that the source has, too, stay."""
    text = text.rpartition(THOUGHT)[2].strip()
    for start, end in QUOTES:
        inner = text[len(start) : -len(end)]
        if text == f"{start}{inner}{end}" and inner and start not in inner and not source.startswith(start):
            return inner.strip()
    return text


def methods(via: str, language: str) -> dict[str, Method]:
    """All methods by name; backtranslate goes through `via` and back into `language`."""
    found = (
        Method("paraphrase", paraphrase),
        Method("backtranslate", backtranslate(via, language)),
        Method("synthetic", synthetic, examples=3),
    )
    return {method.name: method for method in found}
