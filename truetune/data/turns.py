"""A conversation as text: for every answer, what the model is served and what it must write.

The proof that training equals serving begins here. For the answer in turn i, the *prompt* is the template's rendering
of the turns before it with the generation prompt, which is what a server sends. The *answer* is what the rendering of
the turns up to i adds, through the end-of-turn token; a tool call is an answer like any other. Where the second does
not continue the first (`served.py`), no mask would be right, and the row is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from truetune.data import calls, served
from truetune.data.rows import Conversation, Document, RowError, Turn
from truetune.models.template import Talk, Template, TemplateError
from truetune.models.tokenizer import Tokenizer


@dataclass(frozen=True)
class Answer:
    """One trained turn: `text` follows `prompt` and closes with the token `end`."""

    prompt: str
    text: str
    end: str
    appended: bool
    """The template writes no end-of-turn token; the end-of-text token was put there."""
    weight: float

    @cached_property
    def full(self) -> str:
        return self.prompt + self.text


def answers(conversation: Conversation, template: Template, tokenizer: Tokenizer, train_on: str) -> list[Answer]:
    """The trained answers of a conversation, in order; none if all weights are 0. Raises RowError."""
    places = trained(conversation, tokenizer, train_on)
    (texts,) = template.render_all([talk(conversation, places)])
    return written(conversation, places, texts, tokenizer)


def trained(conversation: Conversation, tokenizer: Tokenizer, train_on: str) -> list[int]:
    """The places of the turns that are trained. Raises RowError."""
    check_control(conversation, tokenizer)
    turns = list(conversation.turns)
    places = [place for place, turn in enumerate(turns) if turn.role == "assistant"]
    if train_on == "all" and any(turns[place].weight != 1 for place in places):
        raise RowError("data.weight", "weights of single messages need `train_on: assistant` or `last`")
    wanted = places if train_on == "assistant" else places[-1:]
    return [place for place in wanted if turns[place].weight]


def talk(conversation: Conversation, places: Sequence[int]) -> Talk:
    """What the template must render for these turns: for each, what is served, and that with the answer."""
    cuts = [cut for place in places for cut in ((place, True), (place + 1, False))]
    return conversation.messages(), conversation.tools, cuts


def written(
    conversation: Conversation, places: Sequence[int], texts: Sequence[str | TemplateError], tokenizer: Tokenizer
) -> list[Answer]:
    """The answers, from the two texts of each. Raises RowError."""
    found = []
    for place, prompt, full in zip(places, texts[::2], texts[1::2], strict=True):
        for text in (prompt, full):
            if isinstance(text, TemplateError):
                raise RowError("data.template", text.finding.message)
        found.append(_answer(conversation, place, str(prompt), str(full), tokenizer))
    return found


def stop_ids(template: Template, tokenizer: Tokenizer) -> frozenset[int]:
    """Every token at which an answer ends: the tokenizer's own, and the one that this template puts after an answer."""
    end = end_id(template, tokenizer)
    return frozenset(tokenizer.eos_ids) | ({end} if end is not None else set())


def end_id(template: Template, tokenizer: Tokenizer) -> int | None:
    """The token that this template puts after an answer; None where it wants another first turn, or tools."""
    probe = Conversation((Turn("user", "Hello"), Turn("assistant", "Hi")))
    try:
        return tokenizer.id(answers(probe, template, tokenizer, "last")[0].end)
    except RowError:
        return None


class Question:
    """Takes the last question out of a prompt as it is served: `<|im_start|>user\\nWhy?<|im_end|>…` -> `Why?`.

    What a template puts before and after a question is learned from two conversations. Where that fails, the prompt
    is given back as it is; this is for people's eyes only.
    """

    def __init__(self, template: Template) -> None:
        self.before = self.after = ""
        try:
            first, later = (self._around(template, count) for count in (1, 2))
        except TemplateError:
            return
        self.before, self.after = _common_end(first[0], later[0]), first[1]

    def __call__(self, prompt: str) -> str:
        body = prompt.removesuffix(self.after)
        return (body.rpartition(self.before)[2] if self.before else body).strip()

    def _around(self, template: Template, count: int) -> tuple[str, str]:
        """What stands before and after the last of `count` questions."""
        talk = [("user", "first"), ("assistant", "reply"), ("user", PROBE)][-1 if count == 1 else 0 :]
        messages = [{"role": role, "content": content} for role, content in talk]
        before, _, after = template.render(messages, add_generation_prompt=True).rpartition(PROBE)
        return before, after


PROBE = "What is the question?"


def _common_end(one: str, other: str) -> str:
    size = next((n for n in range(len(one)) if one[-n - 1 :] != other[-n - 1 :]), len(one))
    return one[len(one) - size :]


def check_control(conversation: Conversation, tokenizer: Tokenizer) -> None:
    """Refuse text that would forge the structure of the conversation."""
    parts = [(f"message {number}", _said(turn)) for number, turn in enumerate(conversation.turns, 1)]
    for name, said in (*parts, ("the definition of a tool", calls.texts(conversation.tools))):
        for text in said:
            if match := tokenizer.special.search(text):
                raise RowError("data.control_token", f"{name} contains the model's control token {match[0]!r}")


def check_document(document: Document, tokenizer: Tokenizer) -> None:
    """Refuse a document that would end itself in the middle."""
    if match := tokenizer.special.search(document.text):
        raise RowError("data.control_token", f"the text contains the model's control token {match[0]!r}")


def _answer(conversation: Conversation, place: int, prompt: str, full: str, tokenizer: Tokenizer) -> Answer:
    turn = conversation.turns[place]
    rest = served.behind(prompt, full, turn, tokenizer)
    if rest is None:
        raise RowError("data.template_prefix", _difference(prompt, full))
    _check_prompt(prompt, conversation.turns[:place])
    stop, end = _call_ending(rest, turn, tokenizer) if turn.calls else _ending(rest, turn.content, tokenizer)
    if end:
        _check_end(end, conversation.turns)
        return Answer(prompt, rest[:stop], end, False, turn.weight)
    if tokenizer.eos is None:
        raise RowError("data.no_end_of_turn", "neither the template nor the tokenizer has a token that ends an answer")
    return Answer(prompt, rest[:stop] + tokenizer.eos, tokenizer.eos, True, turn.weight)


def _difference(prompt: str, full: str) -> str:
    shared = next((at for at, pair in enumerate(zip(prompt, full, strict=False)) if pair[0] != pair[1]), len(full))
    tail, instead = prompt[shared : shared + 40], full[shared : shared + 40]
    return (
        f"what is served and what would be trained differ: the generation prompt goes on with {tail!r} "
        f"where the template writes the given answer as {instead!r}"
    )


def _check_prompt(prompt: str, before: tuple[Turn, ...]) -> None:
    """Refuse a prompt that lacks what it answers, or the system message. Other history is the template's.

    What it answers is the last question, and what tools have said since.
    """
    start = max((place for place, turn in enumerate(before) if turn.role == "user"), default=0)
    for place, turn in enumerate(before):
        if turn.role == "tool" and place > start:
            kept = calls.stands(turn.content, prompt)
        else:
            kept = not (turn.role == "system" or place == start) or turn.content.strip() in prompt
        if not kept:
            raise RowError("data.template_drops_text", f"the template leaves out or changes the {turn.role} message")


def _check_end(end: str, turns: tuple[Turn, ...]) -> None:
    """An end of turn that is an ordinary added token escapes `check_control`."""
    if any(end in text for turn in turns for text in _said(turn)):
        raise RowError("data.control_token", f"the text contains {end!r}, which ends a turn")


MARK = re.compile(r"\s*(<[^<>\s]{1,40}>|\[[^\[\]\s]{1,40}\])")
"""What looks like a token that ends a turn."""


def _ending(written: str, content: str, tokenizer: Tokenizer) -> tuple[int, str]:
    """Where the answer ends in what the template wrote, and the token that ends it (empty if there is none).

    The last marker that directly follows the content; some templates write markers before it, too. If it closes the
    content only, and a token that ends texts follows in the same line, that one. A mark of another model's is no end.
    """
    for mark in reversed(list(tokenizer.markers.finditer(written))):
        if _closes(written[: mark.start()], content):
            last = _last(written, mark, tokenizer)
            return last.end(), last[0]
    if _closes(written, content):
        exact = written.rfind(content)
        return (exact + len(content) if exact >= 0 else len(written.rstrip())), ""
    for mark in tokenizer.special.finditer(written):
        if content.strip() in written[: mark.start()]:
            return mark.end(), mark[0]
    exact = written.rfind(content.strip())
    if exact >= 0 and MARK.match(written, exact + len(content.strip())):
        return exact + len(content.strip()), ""
    raise RowError("data.template_drops_text", f"the template drops a part of the answer: it writes {written[:80]!r}")


def _last(written: str, mark: re.Match[str], tokenizer: Tokenizer) -> re.Match[str]:
    """The marker, or a token that ends texts behind one that does not. Behind a line break, the turn was over."""
    later = (found for found in tokenizer.special.finditer(written, mark.end()) if _is_end(found, tokenizer))
    end = None if _is_end(mark, tokenizer) else next(later, None)
    return mark if end is None or written[mark.end() : end.start()].isspace() else end


def _is_end(mark: re.Match[str], tokenizer: Tokenizer) -> bool:
    return tokenizer.id(mark[0]) in tokenizer.eos_ids


def _call_ending(written: str, turn: Turn, tokenizer: Tokenizer) -> tuple[int, str]:
    """As `_ending`, of an answer that calls tools: at a token that ends texts, else at the last special one, that
    follows the calls. What closes a single call may be a special token, too."""
    if lost := calls.missing(written, turn) or _left_out(written, turn.content):
        raise RowError("data.template_drops_text", f"the template drops a part of the answer: {lost!r}")
    marks = [mark for mark in tokenizer.special.finditer(written) if not calls.missing(written[: mark.start()], turn)]
    ends = [mark for mark in marks if _is_end(mark, tokenizer)]
    for mark in (*ends[:1], *marks[-1:]):
        return mark.end(), mark[0]
    return len(written.rstrip()), ""


def _left_out(written: str, content: str) -> str:
    """The part of the content that is not written: its reasoning, or its words."""
    thought, mark, reply = content.rpartition("</think>")
    parts = (thought.replace("<think>", "", 1), reply) if mark else (content,)
    return next((part.strip()[:80] for part in parts if part.strip() not in written), "")


def _said(turn: Turn) -> Iterator[str]:
    """All texts of a message."""
    if not (turn.calls or turn.name or turn.call_id):
        return iter((turn.content,))
    return calls.texts(turn.content, turn.calls, turn.name, turn.call_id)


def _closes(written: str, content: str) -> bool:
    """Whether `written` ends with the whole content. Templates may strip it, and may lay out its reasoning anew."""
    body, content = written.rstrip(), content.strip()
    if body.endswith(content):
        return True
    reasoning, mark, reply = content.rpartition("</think>")
    reasoning, reply = reasoning.replace("<think>", "", 1).strip(), reply.strip()
    return bool(mark and reply) and body.endswith(reply) and reasoning in body[: -len(reply)]
