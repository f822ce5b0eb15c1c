"""Answers that do not simply continue the prompt, and answers that call tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truetune.data import calls
from truetune.data.render import Renderer
from truetune.data.rows import Conversation, RowError, Turn
from truetune.models.template import Template
from truetune.models.tokenizer import Tokenizer, load
from truetune.testing import tokens
from truetune.testing.templates import CHATML

OPEN = CHATML.replace("'<|im_start|>assistant\n'", "'<|im_start|>assistant\n<think>\n'")
CLOSED = CHATML.replace("'<|im_start|>assistant\n'", "'<|im_start|>assistant\n<think>\n</think>\n'")
TERSE = CHATML.replace("'<|im_start|>assistant\n'", "'<|im_start|>assistant\n<think>'")
EMPTY = OPEN.replace("+ m['content']", "+ ('<think></think>' if m['role'] == 'assistant' else '') + m['content']")
CLOSER = TERSE.replace("+ m['content']", "+ ('</think>' if m['role'] == 'assistant' else '') + m['content']")
DROPPED = OPEN.replace("m['content']", "m['content'].split('</think>')[-1].strip()")
LATE = (
    "{% set sys = messages[0].content if messages[0].role == 'system' else '' %}"
    "{% for m in messages %}{% if m.role == 'user' %}"
    "<|im_start|>{{ sys if loop.last else '' }}{{ m.content }}<|im_end|>"
    "{% elif m.role == 'assistant' %}{{ m.content }}</s>{% endif %}{% endfor %}"
)
"""The system message stands before the question that is asked, and nowhere once it is answered."""
TALK = Conversation((Turn("user", "one"), Turn("assistant", "two"), Turn("user", "three"), Turn("assistant", "four")))
THOUGHT = Conversation((Turn("user", "one"), Turn("assistant", "<think>\nso\n</think>\n\ntwo")))
TIGHT = Conversation((Turn("user", "one"), Turn("assistant", "<think>so</think>two")))
CALLS = (
    "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}"
    "<call>{{ c.function.name }} {{ c.function.arguments | tojson }}</call>{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def call(name: str, /, **arguments: Any) -> dict[str, Any]:
    return {"id": "a1", "type": "function", "function": {"name": name, "arguments": arguments}}


def tool(name: str, about: str = "") -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": about}}


def trained(encode: Tokenizer, source: str, row: Conversation) -> list[tuple[str, str]]:
    """For each part, the text before the answer and the answer."""
    found = []
    for part in Renderer(encode, Template(source, encode.tokens, "t")).one(row).parts:
        start = int((part.weights != 0).argmax())
        found.append((encode.decode(part.ids[:start].tolist()), encode.decode(part.ids[start:].tolist())))
    return found


@pytest.mark.parametrize(
    ("source", "row", "expected"),
    [
        (OPEN, TALK, ["\n</think>\n\ntwo<|im_end|>", "\n</think>\n\nfour<|im_end|>"]),
        (TERSE, TALK, ["</think>two<|im_end|>", "</think>four<|im_end|>"]),
        (CLOSED, TALK, ["two<|im_end|>", "four<|im_end|>"]),
        (EMPTY, TALK, ["</think>two<|im_end|>", "</think>four<|im_end|>"]),
        (CLOSER, TALK, ["</think>two<|im_end|>", "</think>four<|im_end|>"]),
        (DROPPED, THOUGHT, ["so\n</think>\n\ntwo<|im_end|>"]),
        (OPEN, THOUGHT, ["so\n</think>\n\ntwo<|im_end|>"]),
        (OPEN, TIGHT, ["so</think>two<|im_end|>"]),
    ],
    ids=["open", "terse", "closed", "empty", "closer", "dropped", "own", "tight"],
)
def test_a_thought_that_the_prompt_opens_is_closed(
    encode: Tokenizer, source: str, row: Conversation, expected: list[str]
) -> None:
    found = trained(encode, source, row)
    assert [answer for _, answer in found] == expected
    template = Template(source, encode.tokens, "t")
    places = [place for place, turn in enumerate(row.turns) if turn.role == "assistant"]
    assert [before for before, _ in found] == [template.render(row.messages()[:place], True) for place in places]


def test_a_thought_behind_a_prompt_that_allows_none_is_refused(encode: Tokenizer) -> None:
    with pytest.raises(RowError) as caught:
        trained(encode, CLOSED.replace("m['content']", "m['content'].split('</think>')[-1].strip()"), THOUGHT)
    assert caught.value.code == "data.template_prefix"


def test_history_that_reads_otherwise_leaves_the_prompt_as_served(encode: Tokenizer) -> None:
    row = Conversation((Turn("system", "Be kind. "), *TALK.turns))
    first, second = trained(encode, LATE, row)
    assert first == ("<|im_start|>Be kind. one<|im_end|>", "two</s>")
    assert second == ("<|im_start|>one<|im_end|>two</s><|im_start|>Be kind. three<|im_end|>", "four</s>")


def test_the_header_of_another_answer_is_not_taken_for_this_ones(encode: Tokenizer) -> None:
    """A template that gives the last answer another header than the prompt would have it follow."""
    source = CHATML.replace("m['role']", "(m['role'] if not loop.last or m['role'] == 'user' else 'final')")
    with pytest.raises(RowError) as caught:
        trained(encode, source, TALK)
    assert caught.value.code == "data.template_prefix"


def test_a_call_is_an_answer_through_its_end_of_turn(encode: Tokenizer) -> None:
    one = call("weather", city='Sankt "Pölten"', days=3, hourly=False)
    turns = (Turn("user", "How is it?"), Turn("assistant", "", calls=(one,)))
    row = Conversation((*turns, Turn("tool", '"clear"', call_id="a1"), Turn("assistant", "Clear.")), (tool("weather"),))
    ((before, text),) = trained(encode, CALLS, Conversation(turns, row.tools))
    assert text == '<call>weather {"city": "Sankt \\"Pölten\\"", "days": 3, "hourly": false}</call><|im_end|>'
    assert before.startswith('{"type": "function", "function": {"name": "weather"')
    assert trained(encode, CALLS, row)[0][1].endswith("<|im_start|>assistant\nClear.<|im_end|>")


@pytest.mark.parametrize(
    ("old", "new", "lost"),
    [
        ("{{ c.function.name }}", "", "weather"),
        ("c.function.arguments | tojson", "c.function.arguments.city", "city"),
        ("m.tool_calls or []", "(m.tool_calls or [])[:1]", "second"),
        ("{{ m.content }}{%", "{{ m.content if not m.tool_calls else '' }}{%", "I look."),
    ],
)
def test_a_call_that_is_not_written_whole_is_refused(encode: Tokenizer, old: str, new: str, lost: str) -> None:
    assert old in CALLS
    both = (call("weather", city="Graz"), call("second"))
    row = Conversation((Turn("user", "How is it?"), Turn("assistant", "I look.", calls=both)), (tool("weather"),))
    with pytest.raises(RowError, match=lost) as caught:
        trained(encode, CALLS.replace(old, new), row)
    assert caught.value.code == "data.template_drops_text"


def test_what_a_tool_says_must_reach_the_prompt(encode: Tokenizer) -> None:
    turns = (
        Turn("user", "q"),
        Turn("assistant", "", calls=(call("f"),)),
        Turn("tool", "it's\n42"),
        Turn("assistant", "a"),
    )
    row = Conversation(turns, (tool("f"),))
    assert trained(encode, CALLS.replace("{{ m.content }}", "{{ m.content | tojson }}", 1), row)
    with pytest.raises(RowError, match="tool message"):
        trained(encode, CALLS.replace("{{ m.content }}", "{{ m.content if m.role != 'tool' }}"), row)


@pytest.mark.parametrize("place", ["argument", "name", "tool", "answer"])
def test_control_tokens_hide_nowhere(encode: Tokenizer, place: str) -> None:
    evil = "x<|im_end|>"
    one = call("f", key=[evil] if place == "argument" else "x")
    turns = (
        Turn("user", "q"),
        Turn("assistant", "", calls=(one,)),
        Turn("tool", evil if place == "answer" else "ok", name=evil if place == "name" else "f"),
        Turn("assistant", "a"),
    )
    with pytest.raises(RowError) as caught:
        trained(encode, CALLS, Conversation(turns, (tool("f", evil if place == "tool" else "it"),)))
    assert caught.value.code == "data.control_token"


def test_a_call_without_an_end_gets_the_end_of_text(encode: Tokenizer) -> None:
    row = Conversation((Turn("user", "q"), Turn("assistant", "", calls=(call("f", x=1),))), (tool("f"),))
    source = CALLS.replace("</call>{% endfor %}<|im_end|>", "</call>{% endfor %}")
    ((_, text),) = trained(encode, source, row)
    assert text == '<call>f {"x": 1}</call></s>'


@pytest.mark.parametrize("written", ['a "b"\né', r"a \"b\"\né", r"a \"b\"\n\u00e9", r"a \\\"b\\\"\\né", 'a "b"\\né'])
def test_a_value_is_known_however_it_is_written(written: str) -> None:
    assert calls.stands('a "b"\né', f"<v>{written}</v>")
    assert not calls.stands('a "b"\né!', f"<v>{written}</v>")


plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(plain, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)


@given(arguments=st.dictionaries(st.text(), values, max_size=4))
def test_whatever_is_said_in_a_call_is_found(arguments: dict[str, Any]) -> None:
    """In JSON, in JSON within JSON, and as Python writes it."""
    turn = Turn("assistant", "", calls=(call("f", **arguments),))
    for ascii_only in (False, True):
        text = json.dumps(arguments, ensure_ascii=ascii_only)
        assert not calls.missing(f"f {text}", turn)
        assert not calls.missing(f"f {json.dumps(text, ensure_ascii=ascii_only)}", turn)
    assert not calls.missing(f"f {arguments}", turn)


def test_numbers_and_words_of_json() -> None:
    for value, texts in {True: ("true", "True"), None: ("null", "None"), 3: ("3",), 0.5: ("0.5",)}.items():
        assert all(calls.stands(value, text) for text in texts) and not calls.stands(value, "x")


def test_an_end_of_texts_in_the_same_line_ends_the_answer(tmp_path: Path) -> None:
    encode = load(tokens.byte_level(tmp_path))
    closed = CHATML.replace("'<|im_end|>' + '\n'", "'<|im_end|>over</s>'")
    assert [answer for _, answer in trained(encode, closed, Conversation(TALK.turns[:2]))] == ["two<|im_end|>over</s>"]
    line = CHATML.replace("'<|im_end|>' + '\n'", "'<|im_end|>' + '\n</s>'")
    assert [answer for _, answer in trained(encode, line, Conversation(TALK.turns[:2]))] == ["two<|im_end|>"]
