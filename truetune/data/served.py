"""What the model must write behind a prompt as it is served, out of two renderings: the prompt, and with the answer.

As a rule the second begins with the first, and the answer is the rest. Two kinds of templates break the rule, and the
prompt is then still taken as served, to the letter: templates that write the *history* of an answer that stands there
otherwise than that of one that is asked for (Mistral's system message), and templates whose prompt opens a *thought*
that they leave out of a given answer (DeepSeek R1). Anything else has no answer that could be proven right.
"""

from __future__ import annotations

import re

from truetune.data import calls
from truetune.data.rows import Turn
from truetune.models.template import Template, TemplateError
from truetune.models.tokenizer import Tokenizer

THOUGHTS = (
    ("<think>", "</think>"),
    ("<mm:think>", "</mm:think>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel>thought", "<channel|>"),
    ("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"),
)
"""How models begin and end what they think before they answer."""


def behind(prompt: str, full: str, turn: Turn, tokenizer: Tokenizer) -> str | None:
    """The text of the answer and what the template writes after it; None where no mask would be right."""
    if full.startswith(prompt):
        return full[len(prompt) :]
    said = turn.content.rpartition("</think>")[2].strip()
    found = (_header(prompt, full, tokenizer), _thought(prompt, full, turn.content))
    return next((text for text in found if text and said in text and not calls.missing(text, turn)), None)


def remarks(template: Template, tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """What a person should know of a template for this model: code and sentence."""
    found = []
    if foreign := tokenizer.foreign(template):
        names, verb = " and ".join(foreign), "is no token" if len(foreign) == 1 else "are no tokens"
        found.append(("data.template_tokens", f"{names} {verb} of this model: written as text"))
    if _thinks(template):
        message = "the model is served with an open thought: an answer without one is trained to close it at once"
        found.append(("data.template_thought", message))
    return found


def _thinks(template: Template) -> bool:
    """Whether a prompt as served ends in an open thought."""
    try:
        prompt = template.render([{"role": "user", "content": "Hello"}], add_generation_prompt=True).rstrip()
    except TemplateError:  # it wants tools, or another first turn
        return False
    return any(prompt.endswith(opening) for opening, _ in THOUGHTS)


def _header(prompt: str, full: str, tokenizer: Tokenizer) -> str | None:
    """What follows the header of the answer, from its last special token on, where only the history differs.

    The header must stand in both texts equally often, or that of another answer would be taken for this one's.
    """
    mark = max((mark.start() for mark in tokenizer.special.finditer(prompt)), default=len(prompt))
    header = prompt[mark:]
    if not header or full.count(header) != prompt.count(header):
        return None
    return full.rpartition(header)[2]


def _thought(prompt: str, full: str, content: str) -> str | None:
    """The answer behind a prompt that ends with a thought: open, or closed at once."""
    for opening, closing in THOUGHTS:
        start = prompt.rfind(opening)
        inside = prompt[start + len(opening) :]
        if start >= 0 and full.startswith(prompt[:start]) and inside.strip() in ("", closing):
            body, own = full[start:], content.rpartition("</think>")[0].replace("<think>", "", 1).strip()
            if inside.strip():
                return None if own else re.sub(rf"\A({re.escape(opening)}\s*)?{re.escape(closing)}\s*", "", body)
            return _closed(body, own, opening, closing, inside)
    return None


def _closed(body: str, own: str, opening: str, closing: str, inside: str) -> str:
    """What ends an open thought, and the answer. Where the template writes that end by itself, it is the template's;
    else the answer's own thought, or none, in the layout that the prompt began."""
    bare = body.removeprefix(opening)
    if bare != body or body.startswith(closing):
        return bare
    if "\n" not in inside:
        return f"{own}{closing}{body}"
    return f"{own}\n{closing}\n\n{body.lstrip()}"
