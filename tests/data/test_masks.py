"""The promise: for any conversation and any template, what is trained is the answer as served, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from truetune.data.fit import portions
from truetune.data.render import Part, Renderer
from truetune.data.rows import Conversation, RowError, Turn
from truetune.models.tokenizer import Tokenizer, load
from truetune.testing import tokens
from truetune.testing.templates import CASES, THINKING, Case

FAMILIES = {"bytes": tokens.byte_level, "pieces": tokens.metaspace}
SNIPPETS = ["assistant", "final", "<", "|im_end|", " ", "\n", "\n\n", "###", "é", "日本", "🙂", "\t", "[/INST", "1 2"]
texts = st.lists(st.one_of(st.sampled_from(SNIPPETS), st.text(max_size=6)), min_size=1, max_size=5).map("".join)
contents = texts.filter(lambda text: text.strip() and "\0" not in text)


@cache
def tokenizer(family: str, case: Case) -> Tokenizer:
    specials = (*tokens.SPECIALS, *case.specials)
    with TemporaryDirectory() as folder:
        return load(FAMILIES[family](Path(folder), template=case.source, specials=specials))


@st.composite
def conversations(draw: st.DrawFn, system: bool) -> Conversation:
    head = [Turn("system", draw(contents))] if system and draw(st.booleans()) else []
    pairs = draw(st.lists(st.tuples(contents, contents), min_size=1, max_size=3))
    return Conversation((*head, *(turn for q, a in pairs for turn in (Turn("user", q), Turn("assistant", a)))))


def runs(part: Part) -> list[tuple[int, int]]:
    """Stretches of trained tokens."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], part.weights != 0, [0]])))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


def written(encode: Tokenizer, part: Part, start: int, stop: int) -> str:
    """The text of a stretch, as it reads behind what stands before it."""
    before, through = encode.decode(part.ids[:start].tolist()), encode.decode(part.ids[:stop].tolist())
    assert through.startswith(before)
    return through[len(before) :]


def spaced(text: str, family: str) -> str:
    """SentencePiece tokenizers put a space of their own behind special tokens, so spaces don't count there; nor does
    the sign that they write for a space."""
    return text.replace(" ", "").replace("▁", "") if family == "pieces" else text


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(data=st.data())
def test_trained_is_the_answer_as_served(family: str, case: Case, data: st.DataObject) -> None:
    encode = tokenizer(family, case)
    talk = data.draw(conversations(case.system))
    template = encode.template
    assert template is not None
    try:
        rendered = Renderer(encode, template).one(talk)
    except RowError as error:
        assert error.code == "data.control_token" and any(encode.special.search(turn.content) for turn in talk.turns)
        return
    places = [place for place, turn in enumerate(talk.turns) if turn.role == "assistant"]
    found = [(part, *run) for part in rendered.parts for run in runs(part)]
    assert len(found) == len(places)
    for place, (part, start, stop) in zip(places, found, strict=True):
        served = encode.encode(template.render(talk.messages()[:place], add_generation_prompt=True))
        assert part.ids[:start].tolist() == served
        answer = case.answer(talk.turns[place].content)
        assert spaced(written(encode, part, start, stop), family) == spaced(answer, family)
    assert all(part.closed and part.weights[0] == 0 for part in rendered.parts)


@pytest.mark.parametrize("family", FAMILIES)
@given(thought=contents, reply=contents)
@settings(max_examples=30, deadline=None)
def test_reasoning_is_trained_in_its_own_turn_and_gone_from_history(family: str, thought: str, reply: str) -> None:
    assume(reply.strip())
    encode = tokenizer(family, CASES[2])
    first = f"<think>\n{thought}\n</think>\n\n{reply}"
    talk = Conversation((Turn("user", "a"), Turn("assistant", first), Turn("user", "b"), Turn("assistant", "c")))
    assert encode.template is not None and encode.template.source == THINKING
    try:
        rendered = Renderer(encode, encode.template).one(talk)
    except RowError as error:
        assert error.code in ("data.control_token", "data.template_drops_text")
        return
    assert rendered.mode == "per_turn" and len(rendered.parts) == 2
    one, two = rendered.parts
    (start, stop), *_ = runs(one)
    answer = written(encode, one, start, stop)
    assert thought.strip() in answer and answer.endswith(f"{reply.lstrip(chr(10))}<|im_end|>")
    assert "<think>" not in encode.decode(two.ids[: runs(two)[0][0]].tolist())


@st.composite
def weighted(draw: st.DrawFn, system: bool) -> Conversation:
    """A conversation whose answers have weights of their own, some of them 0."""
    talk = draw(conversations(system))
    weights = st.sampled_from([0.0, 0.5, 1.0, 2.0])
    turns = [replace(turn, weight=draw(weights)) if turn.role == "assistant" else turn for turn in talk.turns]
    return Conversation(tuple(turns))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(data=st.data(), train_on=st.sampled_from(["assistant", "last"]))
def test_weights_and_the_last_answer_choose_what_is_trained(
    family: str, case: Case, data: st.DataObject, train_on: str
) -> None:
    """Answers that are wanted are trained whole, with their weight, and of the others nothing."""
    encode = tokenizer(family, case)
    talk = data.draw(weighted(case.system))
    assert encode.template is not None
    try:
        rendered = Renderer(encode, encode.template, train_on).one(talk)
    except RowError as error:
        assert error.code == "data.control_token"
        return
    answers = [turn for turn in talk.turns if turn.role == "assistant"][-1 if train_on == "last" else 0 :]
    wanted = [turn for turn in answers if turn.weight]
    found = [(part, *run) for part in rendered.parts for run in runs(part)]
    assert len(found) == len(wanted)
    for turn, (part, start, stop) in zip(wanted, found, strict=True):
        assert set(part.weights[start:stop].tolist()) == {turn.weight}
        assert spaced(written(encode, part, start, stop), family) == spaced(case.answer(turn.content), family)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(data=st.data(), length=st.integers(8, 60))
def test_a_conversation_that_is_split_trains_whole_answers(case: Case, data: st.DataObject, length: int) -> None:
    """Whatever fits is an answer as served with its end, in the order of the conversation, none twice."""
    encode = tokenizer("bytes", case)
    talk = data.draw(conversations(case.system))
    assert encode.template is not None
    render = Renderer(encode, encode.template)
    try:
        found = portions(talk, render.one(talk), render, length)
    except RowError as error:
        assert error.code in ("data.control_token", "data.too_long")
        return
    texts = [written(encode, part, *run) for part in found.parts for run in runs(part)]
    answers = iter(case.answer(turn.content) for turn in talk.turns if turn.role == "assistant")
    assert texts and all(any(text == answer for answer in answers) for text in texts)
    assert all(part.closed and len(part.ids) <= length for part in found.parts)
