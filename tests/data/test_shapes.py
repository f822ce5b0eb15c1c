"""Rows that are more than a prompt and an answer: tools, preference pairs, rated answers, labelled texts."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from truetune.data import formats
from truetune.data.rows import Conversation, Document, Labelled, Preference, Rated, RowError, Turn
from truetune.data.shapes.table import SHAPES

SHARED = Path(__file__).parents[3] / "shared" / "data"
Q, A, B = ({"role": role, "content": text} for role, text in (("user", "q"), ("assistant", "a"), ("assistant", "b")))
S = {"role": "system", "content": "s"}
ASK, GOOD, WORSE = Turn("user", "q"), Turn("assistant", "a"), Turn("assistant", "b")
SYSTEM = Turn("system", "s")
ARGUMENTS = {"city": "Köln", "days": [1, 2]}
CALL = {"type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
WRITTEN = {"type": "function", "function": {"name": "weather", "arguments": json.dumps(ARGUMENTS)}}


def read(value: dict[str, Any], name: str | None = None) -> Any:
    form = formats.named(name) if name else formats.detect([value])
    return form.read(value)


def code(value: dict[str, Any], name: str | None = None) -> str:
    with pytest.raises(RowError) as caught:
        read(value, name)
    assert caught.value.reason
    return caught.value.code


@pytest.mark.parametrize(
    "message",
    [
        {"tool_calls": [CALL], "content": None},
        {"tool_calls": [WRITTEN]},
        {"tool_calls": json.dumps([WRITTEN]), "content": ""},
        {"tool_calls": [{"id": None, "index": 0, **WRITTEN}], "content": None},
        {"function_call": {"name": "weather", "arguments": json.dumps(ARGUMENTS)}, "content": None},
        {"tool_calls": [{"name": "weather", "arguments": ARGUMENTS}]},
        {"tool_calls": [{"name": "weather", "parameters": ARGUMENTS}]},
    ],
)
def test_a_call_is_the_same_however_it_is_written(message: dict[str, Any]) -> None:
    found = read({"messages": [Q, {"role": "assistant", **message}]})
    assert found == Conversation((ASK, Turn("assistant", "", calls=(CALL,))))


def test_a_whole_talk_with_tools() -> None:
    called = {"role": "assistant", "content": "Let me see.", "tool_calls": [{"id": "c1", **CALL}, {"id": "c2", **CALL}]}
    answers = [{"role": "tool", "content": said, "tool_call_id": name} for said, name in (("7", "c1"), ("", "c2"))]
    found = read({"messages": [S, {**Q, "name": "Ann"}, called, *answers, A, Q], "tools": json.dumps([TOOL])})
    assert found.tools == (TOOL,)
    assert found.turns == (
        SYSTEM,
        Turn("user", "q", name="Ann"),
        Turn("assistant", "Let me see.", calls=({"id": "c1", **CALL}, {"id": "c2", **CALL})),
        Turn("tool", "7", call_id="c1"),
        Turn("tool", "", call_id="c2"),
        GOOD,
    )


@pytest.mark.parametrize("text", [[], [{"from": "gpt", "value": "Let me see."}]])
@pytest.mark.parametrize("tools", [json.dumps([TOOL["function"]]), [TOOL], json.dumps([TOOL])])
def test_tools_in_sharegpt(text: list[dict[str, Any]], tools: Any) -> None:
    """A call that follows a text of the assistant is a part of that turn."""
    call = {"from": "function_call", "value": json.dumps({"name": "weather", "arguments": ARGUMENTS})}
    turns = [{"from": "human", "value": "q"}, *text, call, {"from": "observation", "value": "7"}]
    found = read({"conversations": [*turns, {"from": "gpt", "value": "a"}], "tools": tools, "system": "s"})
    called = Turn("assistant", "Let me see." if text else "", calls=(CALL,))
    assert found == Conversation((SYSTEM, ASK, called, Turn("tool", "7"), GOOD), (TOOL,))


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([Q, {"role": "tool", "content": "7"}, A], "data.role_order"),
        ([Q, {**A, "tool_calls": [{"name": "f", "arguments": "{"}]}], "data.tool_calls"),
        ([Q, {**A, "tool_calls": [{"name": "f", "arguments": "[1]"}]}], "data.tool_calls"),
        ([Q, {**A, "tool_calls": [{"name": "f", "id": 7}]}], "data.tool_calls"),
        ([Q, {**A, "tool_calls": ["f"]}], "data.tool_calls"),
        ([Q, {**A, "tool_calls": [{"function": "f"}]}], "data.tool_calls"),
        ([{**Q, "tool_calls": [CALL]}, A], "data.tool_calls"),
        ([Q, {"role": "function_call", "content": "weather(1)"}], "data.tool_calls"),
        ([Q, {"role": "function_call", "content": ""}], "data.tool_calls"),
        ([Q, {**A, "tool_calls": [{"name": "f", "arguments": {"price": Decimal(1)}}]}], "data.tool_calls"),
        ([Q, {**A, "name": 7}], "data.type"),
        ([Q, {"role": "function_call", "content": "{}"}, A], "data.tool_calls"),
    ],
)
def test_bad_calls(messages: list[dict[str, Any]], expected: str) -> None:
    assert code({"messages": messages}) == expected


@pytest.mark.parametrize("tools", ["[", "weather", {"name": "f"}, [5], [{}], [{"function": {}}], "7"])
def test_bad_definitions(tools: Any) -> None:
    assert code({"messages": [Q, A], "tools": tools}) == "data.tool_calls"


PAIR = Preference((ASK,), (GOOD,), (WORSE,))
AFTER = Preference((SYSTEM, ASK, GOOD, ASK), (GOOD,), (WORSE,))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, PAIR),
        ({"question": "q", "chosen": "a", "rejected": "b"}, PAIR),
        ({"instruction": "q", "input": "", "chosen": "a", "rejected": "b"}, PAIR),
        ({"prompt": [Q], "chosen": [A], "rejected": [B]}, PAIR),
        ({"prompt": "q", "chosen": A, "rejected": B}, PAIR),
        ({"chosen": [Q, A], "rejected": [Q, B]}, PAIR),
        ({"prompt": "q", "chosen": [Q, A], "rejected": [Q, B]}, PAIR),
        ({"prompt": "q", "system": " ", "chosen": "a", "rejected": "b"}, PAIR),
        ({"chosen": [S, Q, A, Q, A], "rejected": [S, Q, A, Q, B]}, AFTER),
        ({"system": "s", "chosen": [Q, A, Q, A], "rejected": [Q, A, Q, B]}, AFTER),
        ({"system": "s", "conversations": [Q, A, Q], "chosen": A, "rejected": B}, AFTER),
        ({"prompt": [Q], "chosen": [A, Q, A], "rejected": [B]}, Preference((ASK,), (GOOD, ASK, GOOD), (WORSE,))),
        ({"chosen": [Q, A], "rejected": [Q, B], "tools": [TOOL]}, Preference((ASK,), (GOOD,), (WORSE,), (TOOL,))),
    ],
)
def test_preference_pairs(value: dict[str, Any], expected: Preference) -> None:
    form = formats.detect([value])
    assert (form.shape.name, form.shape.kind) == ("preference", "preference")
    assert form.read(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"chosen": "a", "rejected": "b"}, "data.no_prompt"),
        ({"chosen": [S, A], "rejected": [S, B]}, "data.no_prompt"),
        ({"prompt": "q", "chosen": "a", "rejected": "a"}, "data.same_answers"),
        ({"chosen": [Q, A], "rejected": [Q, A]}, "data.same_answers"),
        ({"chosen": [Q, A], "rejected": [{**Q, "content": "other"}, B]}, "data.prompts_differ"),
        ({"chosen": [Q, A], "rejected": [B]}, "data.prompts_differ"),
        ({"prompt": "other", "chosen": [Q, A], "rejected": [Q, B]}, "data.prompts_differ"),
        ({"prompt": "q", "chosen": "a", "rejected": " "}, "data.empty"),
        ({"prompt": "q", "chosen": "a", "rejected": None}, "data.type"),
        ({"prompt": "q", "chosen": "a", "rejected": []}, "data.empty"),
        ({"prompt": [Q, A], "chosen": [A], "rejected": [B]}, "data.role_order"),
    ],
)
def test_bad_pairs(value: dict[str, Any], expected: str) -> None:
    assert code(value) == expected


TALK = Conversation((ASK, GOOD))


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ({"prompt": "q", "completion": "a", "label": True}, "kto"),
        ({"prompt": [Q], "completion": [A], "label": "True"}, "kto"),
        ({"messages": [Q, A], "label": True}, "kto"),
        ({"messages": [Q, A], "kto_tag": True}, "kto_tag"),
        ({"instruction": "q", "input": "", "output": "a", "kto_tag": "true"}, "kto_tag"),
        ({"conversations": [Q, A], "kto_tag": True}, "kto_tag"),
    ],
)
def test_rated_answers(value: dict[str, Any], name: str) -> None:
    assert formats.detect([value]).shape.name == name
    assert read(value) == Rated(TALK, True)
    flag = "label" if name == "kto" else name
    assert read({**value, flag: 0}, name) == Rated(TALK, False)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"prompt": "q", "completion": "a", "label": None}, "data.label"),
        ({"prompt": "q", "completion": "a", "label": 0.5}, "data.label"),
        ({"prompt": "q", "completion": "a", "label": "so-so"}, "data.label"),
        ({"prompt": "q", "label": True}, "data.other_shape"),
        ({"prompt": "q", "completion": "a"}, "data.other_shape"),
        ({"prompt": "q", "completion": "", "label": True}, "data.empty"),
        ({"messages": [Q], "label": True}, "data.no_answer"),
    ],
)
def test_bad_ratings(value: dict[str, Any], expected: str) -> None:
    assert code(value, "kto") == expected


@pytest.mark.parametrize("bad", ["maybe", 0.5, "TRUE?"])
def test_a_few_bad_ratings_are_bad_rows_and_not_another_shape(bad: Any) -> None:
    rows = [{"prompt": "q", "completion": "a", "label": place % 2 == 0} for place in range(35)]
    form = formats.detect([*rows, {"prompt": "q", "completion": "a", "label": bad}])
    assert form.shape.name == "kto"
    with pytest.raises(RowError) as error:
        form.read({"prompt": "q", "completion": "a", "label": bad})
    assert error.value.code == "data.label"


def test_stars_are_no_ratings() -> None:
    rows = [{"prompt": "q", "completion": "a", "label": stars % 5} for stars in range(40)]
    assert formats.detect(rows).shape.name == "prompt_completion"


def test_a_number_with_a_fraction_is_a_bad_label_and_not_a_text_without_one() -> None:
    form = formats.detect([{"text": "t", "label": 0.37}] * 3)
    with pytest.raises(RowError) as error:
        form.read({"text": "t", "label": 0.37})
    assert error.value.code == "data.label"


def test_a_label_that_rates_nothing_leaves_a_prompt_and_its_answer() -> None:
    value = {"prompt": "q", "completion": "a", "label": "geography"}
    assert formats.detect([value]).shape.name == "prompt_completion"
    assert read(value) == TALK


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"text": "t", "label": "good"}, Labelled("t", ("good",))),
        ({"text": "t", "label": 3}, Labelled("t", ("3",))),
        ({"text": "t", "label": False}, Labelled("t", ("false",))),
        ({"text": "t", "labels": ["a", 2]}, Labelled("t", ("a", "2"))),
        ({"text": "t", "labels": []}, Labelled("t", ())),
        ({"text": "t", "labels": '["a", "b"]'}, Labelled("t", ("a", "b"))),
        ({"text": "t", "labels": "a"}, Labelled("t", ("a",))),
        ({"sentence": "t", "label": 0}, Labelled("t", ("0",))),
        ({"premise": "t", "hypothesis": "u", "label": 0}, Labelled("t", ("0",), "u")),
        ({"sentence1": "t", "sentence2": "u", "label": "x"}, Labelled("t", ("x",), "u")),
        ({"question1": "t", "question2": "u", "label": True}, Labelled("t", ("true",), "u")),
    ],
)
def test_labelled_texts(value: dict[str, Any], expected: Labelled) -> None:
    form = formats.detect([value])
    assert form.shape.kind == "labelled" and form.read(value) == expected


@pytest.mark.parametrize(
    ("value", "name", "expected"),
    [
        ({"text": "t", "label": None}, "text_label", "data.label"),
        ({"text": "t", "label": " "}, "text_label", "data.label"),
        ({"text": "t", "label": 0.5}, "text_label", "data.label"),
        ({"text": "t", "label": ["a"]}, "text_label", "data.label"),
        ({"text": "t", "labels": ["a", "a"]}, "text_labels", "data.label"),
        ({"text": "t", "labels": [None]}, "text_labels", "data.label"),
        ({"text": " ", "label": "a"}, "text_label", "data.empty"),
        ({"text": 7, "label": "a"}, "text_label", "data.type"),
        ({"premise": "t", "hypothesis": "", "label": 1}, "premise_hypothesis_label", "data.empty"),
    ],
)
def test_bad_labels(value: dict[str, Any], name: str, expected: str) -> None:
    assert code(value, name) == expected


@pytest.mark.parametrize(
    "value", [{"text": "t", "label": None}, {"text": "t", "label": {}}, {"text": "t", "labels": ""}]
)
def test_a_text_without_a_usable_label_is_a_text(value: dict[str, Any]) -> None:
    assert read(value) == Document("t")


def test_names_that_people_have_for_shapes() -> None:
    assert [formats.named(name).shape.name for name in ("openai", "classification", "dpo")] == [
        "messages",
        "text_label",
        "preference",
    ]


def test_the_report_says_how_sure_it_is() -> None:
    found = formats.detect([{"text": "t", "label": "a"}, {"text": "t", "label": "b"}, {"text": "t"}])
    report = found.report()
    assert (report["name"], report["seen"], round(report["share"], 2)) == ("text_label", 3, 0.67)


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not there")
def test_real_preference_pairs() -> None:
    rows = json.loads((SHARED / "dpo_en_demo.json").read_bytes())
    form = formats.detect(rows)
    assert (form.shape.name, form.share) == ("preference", 1.0)
    pairs = [form.read(row) for row in rows]
    assert len(rows) == 300
    assert len({pair.digest for pair in pairs}) == len({json.dumps(row) for row in rows}) == 295
    assert all(pair.prompt[-1].role == "user" and len(pair.chosen) == len(pair.rejected) == 1 for pair in pairs)


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.floats(allow_nan=True)
    | st.sampled_from(
        [
            "",
            " ",
            "q",
            "user",
            "assistant",
            "system",
            "tool",
            "function_call",
            "human",
            "[]",
            "{}",
            '{"name": "f"}',
            "true",
        ]
    )
)
KEYS = st.sampled_from(
    [
        "role",
        "content",
        "from",
        "value",
        "weight",
        "name",
        "tool_calls",
        "function_call",
        "function",
        "arguments",
        "id",
        "type",
        "text",
        "tool_call_id",
    ]
)
ANYTHING = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)
FITTING = st.sampled_from(["q", [], [Q], [Q, A], [A], [S, Q, A], [["q", "a"]], [{"name": "f"}], True, A, ["a", "b"]])
COLUMNS = sorted({name for shape in SHAPES.values() for name in (*shape.columns, *shape.others)})


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(SHAPES)), st.data())
def test_whatever_stands_in_a_row_it_is_content_or_refused(name: str, data: st.DataObject) -> None:
    shape = SHAPES[name]
    value = {column: data.draw(FITTING | ANYTHING) for column in (*shape.columns, *shape.others)}
    value |= data.draw(st.dictionaries(st.sampled_from(COLUMNS), ANYTHING, max_size=2))
    formats.shape_of(value)
    try:
        content = formats.named(name).read(value)
    except RowError as error:
        assert error.code.startswith("data.") and error.reason
    else:
        assert len(content.digest) == 16
