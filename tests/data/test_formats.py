"""Shapes of rows: what each becomes, what is refused, and how the shape of a file is found."""

from __future__ import annotations

from typing import Any

import pytest

from truetune.data import formats
from truetune.data.rows import Conversation, Document, RowError
from truetune.errors import Finding, InputError

Q, A = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
S = {"role": "system", "content": "s"}


def talk(value: dict[str, Any], columns: dict[str, str] | None = None) -> list[tuple[str, str]]:
    content = formats.detect([value], columns).read(value)
    assert isinstance(content, Conversation)
    return [(turn.role[0], turn.content) for turn in content.turns]


@pytest.mark.parametrize(
    ("value", "name", "expected"),
    [
        ({"messages": [Q, A]}, "messages", "u:q a:a"),
        ({"messages": [S, Q, A, Q, A], "id": 7}, "messages", "s:s u:q a:a u:q a:a"),
        ({"messages": [{**S, "content": " "}, Q, A]}, "messages", "u:q a:a"),
        ({"messages": [Q, A, Q]}, "messages", "u:q a:a"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}, A]}, "messages", "u:q a:a"),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, "sharegpt", "u:q a:a"),
        ({"conversations": [Q, A], "system": "s"}, "sharegpt", "s:s u:q a:a"),
        ({"instruction": "i", "input": "", "output": "o"}, "alpaca", "u:i a:o"),
        ({"instruction": "i", "input": "x", "output": "o", "text": "t"}, "alpaca", "u:i\n\nx a:o"),
        ({"instruction": "i", "output": "o", "system": "s", "history": [["p", "r"]]}, "alpaca", "s:s u:p a:r u:i a:o"),
        ({"instruction": "i", "response": "r"}, "instruction_response", "u:i a:r"),
        ({"prompt": "p", "completion": "c"}, "prompt_completion", "u:p a:c"),
        ({"prompt": [S, Q], "completion": [A]}, "prompt_completion", "s:s u:q a:a"),
        ({"prompt": "p", "response": "r"}, "prompt_response", "u:p a:r"),
        ({"input": "i", "output": "o"}, "input_output", "u:i a:o"),
        ({"question": "q", "answer": "a"}, "question_answer", "u:q a:a"),
        ({"text": "t", "summary": "s", "id": 1}, "text_summary", "u:Summarise this text:\n\nt a:s"),
        ({"document": "t", "summary": "s", "system": "y"}, "document_summary", "s:y u:Summarise this text:\n\nt a:s"),
        ({"dialogue": "t", "summary": "s"}, "dialogue_summary", "u:Summarise this text:\n\nt a:s"),
        ({"article": "t", "highlights": "s"}, "article_highlights", "u:Summarise this text:\n\nt a:s"),
    ],
)
def test_shapes(value: dict[str, Any], name: str, expected: str) -> None:
    assert formats.detect([value]).shape.name == name
    assert " ".join(f"{role}:{text}" for role, text in talk(value)) == expected


@pytest.mark.parametrize(
    ("rows", "columns", "code", "said"),
    [
        ([{"Frage": "q", "Antwort": "a"}], {"prompt": "Frage", "completion": "Antwrt"}, "data.no_column", "'Antwort'"),
        ([{"Frage": "q", "Antwort": "a"}], {"Frage": "prompt"}, "data.no_column", "our name first"),
        (
            [{"prompt": "q", "completion": "a"}],
            {"prompt": "prompt", "completion": "completion", "x": "y"},
            "data.no_column",
            "",
        ),
    ],
)
def test_columns_that_are_not_there(
    rows: list[dict[str, Any]], columns: dict[str, str] | None, code: str, said: str
) -> None:
    with pytest.raises(InputError) as caught:
        formats.detect(rows, columns)
    assert caught.value.finding.code == code and said in caught.value.finding.hint


def test_text_is_a_document() -> None:
    assert formats.detect([{"text": "t", "label": None}]).read({"text": "t"}) == Document("t")


def test_weights_of_messages() -> None:
    content = formats.named("messages").read({"messages": [Q, {**A, "weight": 0}, Q, {**A, "weight": 0.5}]})
    assert isinstance(content, Conversation)
    assert [turn.weight for turn in content.turns] == [1, 0, 1, 0.5]


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ({"messages": "q"}, "data.type"),
        ({"messages": []}, "data.empty"),
        ({"messages": [Q, 5]}, "data.type"),
        ({"messages": [Q, {"role": "assistant", "content": None}]}, "data.type"),
        ({"messages": [Q, {"role": "assistant", "content": 42}]}, "data.type"),
        ({"messages": [Q, {"role": "assistant", "content": " \n"}]}, "data.empty"),
        ({"messages": [{"role": "user", "content": ""}, A]}, "data.empty"),
        ({"messages": [Q]}, "data.no_answer"),
        ({"messages": [A]}, "data.role_order"),
        ({"messages": [S, A]}, "data.role_order"),
        ({"messages": [Q, A, A]}, "data.role_order"),
        ({"messages": [Q, S, A]}, "data.role_order"),
        ({"messages": [Q, {"role": "wizard", "content": "x"}]}, "data.role"),
        ({"messages": [Q, {"role": ["x"], "content": "x"}]}, "data.role"),
        ({"messages": [Q, {**A, "weight": -1}]}, "data.weight"),
        ({"messages": [Q, {**A, "weight": True}]}, "data.weight"),
        ({"messages": [Q, {**A, "tool_calls": [{}]}]}, "data.tool_calls"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}, A]}, "data.content_part"),
        ({"question": "q"}, "data.other_shape"),
        ({"text": "t"}, "data.other_shape"),
        ({}, "data.other_shape"),
    ],
)
def test_refused_rows(value: dict[str, Any], code: str) -> None:
    with pytest.raises(RowError) as caught:
        formats.named("messages").read(value)
    assert caught.value.code == code and caught.value.reason


def test_the_reason_names_both_shapes() -> None:
    with pytest.raises(RowError, match=r"`text`.*`messages`"):
        formats.named("messages").read({"text": "t"})


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ({"instruction": "i", "output": ""}, "data.empty"),
        ({"instruction": "i", "output": None}, "data.type"),
        ({"instruction": "i", "output": "o", "history": [["x"]]}, "data.type"),
        ({"instruction": "i", "output": "o", "history": True}, "data.type"),
        ({"instruction": "i", "input": 3, "output": "o"}, "data.type"),
    ],
)
def test_refused_alpaca_rows(value: dict[str, Any], code: str) -> None:
    with pytest.raises(RowError) as caught:
        formats.named("alpaca").read(value)
    assert caught.value.code == code


def test_nothing_to_summarise_is_refused() -> None:
    with pytest.raises(RowError) as caught:
        formats.named("article_highlights").read({"article": " ", "highlights": "s"})
    assert caught.value.code == "data.empty"


def test_the_shape_is_found_over_all_rows() -> None:
    form = formats.detect([{"text": "t"}, *[{"prompt": "p", "completion": "c"}] * 3])
    assert (form.shape.name, form.share) == ("prompt_completion", 0.75)


def unknown(rows: list[dict[str, Any]], columns: dict[str, str] | None = None) -> Finding:
    with pytest.raises(InputError) as caught:
        formats.detect(rows, columns, "rows.csv")
    finding = caught.value.finding
    assert (finding.code, finding.where) == ("data.unknown_format", "rows.csv")
    return finding


def test_a_tie_is_the_users_to_decide() -> None:
    finding = unknown([{"text": "t"}, {"messages": [Q, A]}])
    assert "`text` as `messages`" in finding.message and "--format" in finding.hint


@pytest.mark.parametrize(
    ("rows", "near"),
    [
        ([{"a": 1}, {"b": 2}], "prompt_completion (prompt, completion); messages (messages); text (text)"),
        ([{"a": 1}, {"a": 1}, {"text": "t"}], "text (text); "),
        ([{"quastion": "q", "anser": "a"}], "question_answer (question, answer); "),
    ],
)
def test_an_unknown_shape_tells_what_is_there_and_what_is_near(rows: list[dict[str, Any]], near: str) -> None:
    hint = unknown(rows).hint
    assert f"Columns found: {next(iter(rows[0]))}" in hint and f"nearest formats: {near}" in hint
    assert "--columns prompt=…,response=…" in hint and len(hint) < 400


def test_of_many_columns_a_few_are_told() -> None:
    hint = unknown([{f"c{n}" + "x" * 60: 1 for n in range(50)}]).hint
    assert "xx…, " in hint and "and 42 more" in hint and len(hint) < 800


@pytest.mark.parametrize(
    ("name", "said"),
    [("How can I return a lamp?", "is the header missing"), ('{"question": "q"}', "JSON")],
)
def test_a_row_in_place_of_a_header(name: str, said: str) -> None:
    assert said in unknown([{name: "x", "To return it, go to our shop.": "y"}]).message


def test_columns_that_make_no_shape_are_told() -> None:
    assert "prompt=a" in unknown([{"a": 1}], {"prompt": "a"}).hint


def test_columns_can_be_named() -> None:
    value = {"question_text": "q", "answer_text": "a", "text": "other"}
    assert talk(value, {"prompt": "question_text", "response": "answer_text"}) == [("u", "q"), ("a", "a")]
    assert formats.detect([{"body": "b"}], {"text": "body"}).read({"body": "b"}) == Document("b")
    assert talk({"dialog": [Q, A]}, {"messages": "dialog"}) == [("u", "q"), ("a", "a")]


def test_unknown_names_are_errors() -> None:
    with pytest.raises(InputError):
        formats.named("nonsense")
    with pytest.raises(InputError) as caught:
        formats.detect([{"a": 1}], {"prompt": "b", "response": "a"})
    assert caught.value.finding.where == "data.columns"


def test_equal_conversations_have_equal_digests() -> None:
    one = formats.named("alpaca").read({"instruction": "q", "output": "a"})
    two = formats.named("messages").read({"messages": [Q, A]})
    other = formats.named("messages").read({"messages": [Q, {**A, "weight": 0}]})
    assert one.digest == two.digest != other.digest
