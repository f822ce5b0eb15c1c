"""A chat template: messages in, the text that a model is served with out.

Templates come with models, so they are untrusted programs: they run in Jinja's immutable sandbox and see nothing but
the messages and the names of a few tokens. What they may use is what `transformers` offers them, so that the text is
equal to `apply_chat_template`.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from truetune.errors import InputError

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


class Generation(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}` marks the assistant's text; it renders as its body, in its own scope."""

    tags = {"generation"}  # noqa: RUF012 (the base class declares it so)

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)


class Template:
    """A compiled chat template with the token names it may write."""

    def __init__(self, source: str, tokens: Mapping[str, str | None], origin: str) -> None:
        """`tokens`: bos_token, eos_token, …; `origin`: where the template comes from, for messages and the report.

        Raises TemplateError (`model.template`) for a template that does not compile.
        """
        self.source, self.origin = source, origin
        self.tokens = {name: text for name, text in tokens.items() if text is not None}
        self.digest = hashlib.sha256(source.encode()).hexdigest()
        try:
            self._compiled = _environment().from_string(source)
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

        Raises TemplateError (`data.template`) with the template's own reason.
        """
        try:
            return self._compiled.render(
                messages=messages,
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self.tokens,
            )
        except Exception as error:  # a template is a program: anything can go wrong in it
            message = f"the chat template refuses this conversation: {error}"
            raise TemplateError(message, code="data.template", where=self.origin) from error


def _environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = _now
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without the HTML escapes of Jinja's own filter."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _now(format: str) -> str:
    return datetime.datetime.now().strftime(format)
