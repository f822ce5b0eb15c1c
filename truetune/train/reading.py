"""How held-out rows are asked and how answers are read: conversations by their template, texts by their beginning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from truetune.data.example import Example
from truetune.data.turns import Question, stop_ids
from truetune.models.template import Template
from truetune.models.tokenizer import Tokenizer

PARTIAL = "\N{REPLACEMENT CHARACTER}"
"""What a tokenizer decodes a part of a character to."""
BEGINNING = 48
"""Most tokens of a text that are its beginning: so much is read at a glance."""
ENDS = ("<|endoftext|>", "<|end_of_text|>", "<｜end▁of▁sentence｜>", "</s>", "<eos>")
"""Tokens that model families end a text with. A model that was tuned to chat mostly names another one, that of a
turn's end, and goes on to end texts with its first."""


@dataclass(frozen=True)
class Reader:
    """Token ids to what a person reads. This one is for conversations, `Beginnings` for texts."""

    decode: Callable[[Sequence[int]], str] = str
    stops: frozenset[int] = frozenset()
    """Tokens at which an answer ends."""
    question: Callable[[str], str] = str
    """The last question in a prompt as it is served."""

    def prompt(self, example: Example) -> list[int]:
        """What is asked of an example: all before its first answer; where everything is trained, its first half."""
        first = int(example.weights.argmax())
        return list(example.ids.tolist()[: first if first > 1 else max(1, example.tokens // 2)])

    def asked(self, prompt: Sequence[int]) -> str:
        """The question in a prompt, for people's eyes."""
        return self.question(self.decode(prompt))

    def reference(self, example: Example, start: int, limit: int) -> str:
        """What the row answers, whole; `limit` is how many tokens the model may write."""
        return self.said(example.ids[start : start + self.trained(example, start)].tolist())

    def trained(self, example: Example, start: int) -> int:
        """Tokens of the answer that begins at `start`."""
        return int((example.weights[start:] > 0).argmin()) or example.tokens

    def said(self, answer: Sequence[int]) -> str:
        """The text of an answer, without the token that ends it, and without half of a character where it was cut."""
        return self.decode(answer[:-1]) if self.ended(answer) else self.decode(answer).rstrip(PARTIAL)

    def ended(self, answer: Sequence[int]) -> bool:
        """Whether it came to its end by itself."""
        return bool(len(answer)) and answer[-1] in self.stops


class Beginnings(Reader):
    """For texts: the beginning of one is asked, and how the text itself goes on is the reference."""

    def prompt(self, example: Example) -> list[int]:
        """Half of the text, `BEGINNING` tokens at most, back to where a word ends; in writing without spaces to where
        a character does."""
        ids = example.ids.tolist()
        most = max(1, min(len(ids) // 2, BEGINNING))
        said = [self.decode(ids[:size]) for size in range(min(most + 2, len(ids) + 1))]
        places = range(1, len(said) - 1)
        whole = [at for at in places if not said[at].endswith(PARTIAL) and said[at + 1].startswith(said[at])]
        words = [at for at in whole if said[at][-1:].isspace() or said[at + 1][len(said[at]) :][:1].isspace()]
        near = [at for at in words if 2 * at >= most]
        return list(ids[: max(near or whole or [most])])

    def reference(self, example: Example, start: int, limit: int) -> str:
        """As much of the text as the model may write."""
        return self.said(example.ids[start : start + limit].tolist())


def reader(encode: Tokenizer, template: Template | None) -> Reader:
    """How rows are asked that were rendered so; without a template texts were learned."""
    if template is None:
        begin = encode.bos or ""
        return Beginnings(encode.decode, text_ends(encode), lambda text: text.removeprefix(begin).strip())
    return Reader(encode.decode, stop_ids(template, encode), Question(template))


def text_ends(encode: Tokenizer) -> frozenset[int]:
    """Every token that may end a text: those that the model names, and that of its family."""
    known = (encode.id(text) for text in ENDS if text in encode.special_tokens)
    return frozenset(encode.eos_ids) | {end for end in known if end is not None}
