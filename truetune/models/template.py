"""A chat template: messages in, the text that a model is served with out.

Templates come with models, so they are untrusted programs: they run in a sandbox (`sandbox.py`) and see nothing but
the messages and the names of a few tokens. What they may use is what `transformers` offers them, so that the text is
equal to `apply_chat_template`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from truetune.errors import InputError
from truetune.models.sandbox import TURNS, Endless, Room

Messages = Sequence[Mapping[str, Any]]

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


class Template:
    """A compiled chat template with the token names it may write."""

    def __init__(self, source: str, tokens: Mapping[str, str | None], origin: str) -> None:
        """`tokens`: bos_token, eos_token, …; `origin`: where the template comes from, for messages and the report.

        Raises TemplateError (`model.template`) for a template that does not compile.
        """
        self.source, self.origin = source, origin
        self.tokens = {name: text for name, text in tokens.items() if text is not None}
        self.digest = hashlib.sha256(source.encode()).hexdigest()
        self._room = Room()
        try:
            self._compiled = self._room.template(source)
        except jinja2.TemplateSyntaxError as error:
            where = f"{origin}:{error.lineno}"
            message = f"the chat template is not valid: {error.message}"
            raise TemplateError(message, code="model.template", where=where) from error

    @property
    def dated(self) -> bool:
        """True if the template can write today's date, which differs between training and serving."""
        return "strftime_now" in self.source

    def render(self, messages: Messages, add_generation_prompt: bool = False) -> str:
        """The text for these messages; with `add_generation_prompt`, up to where the assistant's answer begins.

        Raises TemplateError (`data.template`) with the template's own reason, TemplateEndless (`model.template`).
        """
        self._room.turns = TURNS
        try:
            return self._compiled.render(
                messages=messages,
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self.tokens,
            )
        except Endless as error:
            message, hint = f"the chat template does not come to an end: {error}", "Choose another: data.template."
            raise TemplateEndless(message, code="model.template", where=self.origin, hint=hint) from error
        except Exception as error:  # a template is a program: anything can go wrong in it
            reason = str(error) or type(error).__name__
            message = f"the chat template refuses this conversation: {reason}"
            raise TemplateError(message, code="data.template", where=self.origin) from error
