"""A chat template: messages in, the text that a model is served with out.

Templates come with models, so they are untrusted programs: they are compiled and rendered in a process of their own
(`booth.py`), and see nothing but the messages, the tools and the names of a few tokens. What they may use is what
`transformers` offers them, so that the text is equal to `apply_chat_template`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from truetune.errors import InputError
from truetune.models.booth import BOOTH, Answer, Breach, Cut
from truetune.models.worker import MEMORY, SECONDS

Messages = Sequence[Mapping[str, Any]]
Tools = Sequence[Mapping[str, Any]]
LARGEST = 2**22
"""Characters of a conversation, about a million tokens: what a worker's memory is enough for."""
BATCH = 2**18
"""Characters that are sent to the worker at once."""

PLAIN = (
    "{% for message in messages %}"
    "{% if message.role == 'system' %}{{ message.content }}\n\n"
    "{% elif message.role == 'assistant' %}### Assistant:\n{{ message.content }}{{ eos_token }}\n\n"
    "{% else %}### {{ message.role | capitalize }}:\n{{ message.content }}\n\n"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}### Assistant:\n{% endif %}"
)
"""For models that bring no template: headings of plain text, and the end-of-text token after each answer."""

RAW = (
    "{% for message in messages %}{{ message.content }}"
    "{% if message.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
)
"""`data.template: none`: the prompt as it stands, the answer, the end-of-text token."""


class TemplateError(InputError):
    """The template is not valid, or it refuses these messages."""


class TemplateEndless(InputError):
    """The template goes on for ever. No row can be rendered by it."""


CHOOSE = "Choose another template: data.template."
TOO_MUCH = f"it takes more than {SECONDS:g} seconds or {MEMORY // 2**20} MB"
TOO_LONG = f"it has more than {LARGEST:,} characters"

Talk = tuple[Messages, Tools, Sequence[Cut]]
"""A conversation's messages, its tool definitions in OpenAI's notation, and what is wanted of it."""


class Template:
    """A chat template with the token names it may write."""

    def __init__(self, source: str, tokens: Mapping[str, str | None], origin: str) -> None:
        """`tokens`: bos_token, eos_token, …; `origin`: where the template comes from, for messages and the report.

        Raises TemplateError (`model.template`) for a template that does not compile, TemplateEndless for one that does
        not stop compiling.
        """
        self.source, self.origin = source, origin
        self.tokens = {name: text for name, text in tokens.items() if text is not None}
        self.digest = hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()
        try:
            answer = BOOTH.compile(self.digest, source)
        except Breach as error:
            raise self._endless(TOO_MUCH) from error
        if isinstance(answer, list):
            where = f"{origin}:{answer[2]}"
            message = f"the chat template is not valid: {_plain(answer[1])}"
            raise TemplateError(message, code="model.template", where=where, hint=CHOOSE)

    @property
    def dated(self) -> bool:
        """True if the template can write today's date, which differs between training and serving."""
        return "strftime_now" in self.source

    def render(self, messages: Messages, add_generation_prompt: bool = False, tools: Tools = ()) -> str:
        """The text for these messages; with `add_generation_prompt`, up to where the assistant's answer begins.

        Equal to `apply_chat_template(messages, tools=tools or None, …, tokenize=False)` of transformers.

        Raises TemplateError (`data.template`) with the template's own reason, TemplateEndless (`model.template`).
        """
        text = self.render_all([(messages, tools, [(len(messages), add_generation_prompt)])])[0][0]
        if isinstance(text, TemplateError):
            raise text
        return text

    def render_all(self, talks: Sequence[Talk]) -> list[list[str | TemplateError]]:
        """For each conversation, the texts of its cuts: (n, prompt) is its first n messages, with or without the
        generation prompt. Many at once take a third of the time of one by one. Raises TemplateEndless.
        """
        found: list[list[str | TemplateError]] = []
        batch: list[Talk] = []
        small: list[Talk] = []
        total = 0
        for talk in talks:
            size = _characters(talk)
            batch.append(talk)
            small.append(talk if size <= LARGEST else ((), (), ()))
            total += size
            if total >= BATCH:
                found += self._batch(batch, small)
                batch, small, total = [], [], 0
        return found + self._batch(batch, small)

    def _batch(self, talks: Sequence[Talk], small: Sequence[Talk]) -> list[list[str | TemplateError]]:
        """`small` are the same, but empty where one is too large."""
        try:
            answers = iter(BOOTH.render(self.digest, self.source, self.tokens, small) if talks else [])
        except Breach as error:
            raise self._endless(TOO_MUCH) from error
        except TypeError as error:
            raise self._refused(f"a message holds what is not JSON ({error})") from error
        return [
            [self._text(next(answers)) if cuts else self._refused(TOO_LONG) for _ in wanted]
            for (*_, wanted), (*_, cuts) in zip(talks, small, strict=True)
        ]

    def _text(self, answer: Answer) -> str | TemplateError:
        if isinstance(answer, str):
            return answer
        if answer[0] == "endless":
            raise self._endless(_plain(answer[1]))
        return self._refused(_plain(answer[1]))

    def _refused(self, reason: str) -> TemplateError:
        message = f"the chat template refuses this conversation: {reason}"
        return TemplateError(message, code="data.template", where=self.origin, hint=CHOOSE)

    def _endless(self, reason: str) -> TemplateEndless:
        message = f"the chat template does not come to an end: {reason}"
        return TemplateEndless(message, code="model.template", where=self.origin, hint=CHOOSE)


def _characters(talk: Talk) -> int:
    """How much a conversation asks of the worker."""
    messages, tools, cuts = talk
    return len(cuts) + sum(map(_letters, (*messages, *tools)))


def _letters(value: Any) -> int:
    """Of all texts in a message or a tool definition."""
    if isinstance(value, str):  # most are
        return len(value)
    if isinstance(value, dict | Mapping):  # the first is told at once
        return sum(map(_letters, value.values())) + sum(len(str(key)) for key in value)
    return sum(map(_letters, value)) if isinstance(value, list | tuple) else 1


def _plain(reason: object) -> str:
    """A template's own words: cut, and without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else " " for letter in str(reason)[:300])
