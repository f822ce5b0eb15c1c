"""A chat template as turns: what stands before and after each message, where the template is no more than that.

For programs that do not run Jinja. The pieces are read off rendered conversations, put together again for others, and
count only where that gives the very text that the template writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from truetune.export.probes import TALKS
from truetune.export.runtime import Messages
from truetune.models.template import Template, TemplateError

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
ASKED, SAID, AGAIN, TOLD = "(first question)", "(first answer)", "(second question)", "(what the system says)"
Pair = tuple[str, str]
LAYOUT: tuple[Messages, ...] = (
    ({"role": USER, "content": "one"}, {"role": ASSISTANT, "content": "two"}, {"role": USER, "content": "three"}),
    (
        {"role": SYSTEM, "content": "Be\n\nbrief {{ .Content }}"},
        {"role": USER, "content": "What is {{ x }}?"},
        {"role": ASSISTANT, "content": "An end\nof lines"},
        {"role": USER, "content": "And now?"},
        {"role": ASSISTANT, "content": "Nothing."},
        {"role": USER, "content": "Good."},
    ),
)


@dataclass(frozen=True)
class Turns:
    """What a template writes. `start` begins every text, `default` stands where no system message is, `pairs` are what
    stands before and after a message of each role, `prompt` is where the answer begins."""

    start: str
    default: str
    pairs: dict[str, Pair]
    prompt: str
    strips: bool = False
    """The template drops spaces around messages, which this does not."""

    def text(self, messages: Messages) -> str:
        """Up to where the answer begins. Raises KeyError for a role that the template has not."""
        spoken = "".join(each["content"].join(self.pairs[each["role"]]) for each in messages)
        default = "" if any(each["role"] == SYSTEM for each in messages) else self.default
        return f"{self.start}{default}{spoken}{self.prompt}"


def derive(template: Template, start: str = "") -> Turns | None:
    """The turns of a template; None where it does more. `start` is the token that begins a text, which is taken as the
    same in all of them."""
    try:
        found = pieces(template, start)
        return found and proven(template, found)
    except TemplateError:
        return None


def pieces(template: Template, start: str) -> Turns | None:
    talk = [(USER, ASKED), (ASSISTANT, SAID), (USER, AGAIN)]
    one, two, three = (written(template, talk[:count]) for count in (1, 2, 3))
    prompted = template.render(conversation(talk[:1]), add_generation_prompt=True)
    system = written(template, [(SYSTEM, TOLD), *talk[:1]])
    if not prompted.startswith(one):  # Phi-3's closes a conversation that nobody is to answer
        end = template.tokens.get("eos_token", "")
        one, two, three, system = (text.removesuffix(end) for text in (one, two, three, system))
    answer, again = around(one, two, SAID), around(two, three, AGAIN)
    if answer is None or again is None or not prompted.startswith(one):
        return None
    first = f"{again[0]}{ASKED}{again[1]}"
    if not one.endswith(first) or not system.endswith(first):
        return None
    head, before = one.removesuffix(first), system.removesuffix(first)
    if before.count(TOLD) != 1 or not (head.startswith(start) and before.startswith(start)):
        return None
    left, right = before.removeprefix(start).split(TOLD)
    pairs = {SYSTEM: (left, right), USER: again, ASSISTANT: answer}
    return Turns(start, head.removeprefix(start), pairs, prompted.removeprefix(one))


def around(shorter: str, longer: str, content: str) -> Pair | None:
    """What a message adds to a text, before and after its content."""
    added = longer.removeprefix(shorter)
    if not longer.startswith(shorter) or added.count(content) != 1:
        return None
    before, after = added.split(content)
    return before, after


def written(template: Template, talk: Sequence[tuple[str, str]]) -> str:
    return template.render(conversation(talk))


def conversation(talk: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in talk]


def proven(template: Template, found: Turns) -> Turns | None:
    """The turns, if they give the template's own text for conversations that they were not read off."""
    talks = (*LAYOUT, *TALKS)
    if all(found.text(talk) == template.render(talk, add_generation_prompt=True) for talk in talks):
        return found
    bare = [[{**each, "content": each["content"].strip()} for each in talk] for talk in talks]
    same = all(found.text(talk) == template.render(talk, add_generation_prompt=True) for talk in bare)
    return Turns(found.start, found.default, found.pairs, found.prompt, strips=True) if same else None
