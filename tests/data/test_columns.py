"""Columns beside the prompt and its answer: those that a row uses, those that are named because nothing uses them,
other spellings of names, and a label that rates an answer or says something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from truetune.config.schema import Data
from truetune.data import formats
from truetune.data.convert import convert
from truetune.data.prepare import prepare
from truetune.data.rows import Conversation, Preference, Rated, RowError
from truetune.models.tokenizer import Tokenizer

Q, A = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


def talk(value: dict[str, Any]) -> list[tuple[str, str]]:
    content = formats.detect([value]).read(value)
    assert isinstance(content, Conversation)
    return [(turn.role[0], turn.content) for turn in content.turns]


def unused(rows: list[dict[str, Any]], columns: dict[str, str] | None = None) -> list[str]:
    form = formats.detect(rows, columns).of("rows.jsonl")
    for row in rows:
        form.read(row)
    return form.unused.names()


@pytest.mark.parametrize(
    "value",
    [
        {"instruction": "q", "context": "c", "response": "a", "category": "x"},
        {"question": "q", "context": "c", "answer": "a"},
        {"question": "q", "context": ["c"], "answer": "a"},
        {"instruction": "q", "input": "", "context": "c", "output": "a"},
        {"prompt": [Q], "context": "c", "completion": [A]},
        {"question": "q", "context": "c", "response": "a"},
    ],
)
def test_a_context_stands_below_the_question(value: dict[str, Any]) -> None:
    assert talk(value) == [("u", "q\n\nc"), ("a", "a")]
    assert talk({**value, "context": ""}) == talk({**value, "context": None}) == [("u", "q"), ("a", "a")]


def test_a_context_of_a_pair_and_of_a_rated_answer() -> None:
    pair = {"prompt": "q", "context": "c", "chosen": "a", "rejected": "b"}
    content = formats.detect([pair]).read(pair)
    assert isinstance(content, Preference) and content.prompt[0].content == "q\n\nc"
    rated = {"prompt": "q", "context": "c", "completion": "a", "label": True}
    found = formats.detect([rated]).read(rated)
    assert isinstance(found, Rated) and found.conversation.turns[0].content == "q\n\nc"


def test_a_context_that_is_no_text_is_refused() -> None:
    with pytest.raises(RowError) as caught:
        formats.named("question_context_answer").read({"question": "q", "context": {"a": 1}, "answer": "a"})
    assert caught.value.code == "data.type" and "context" in caught.value.reason


@pytest.mark.parametrize("name", ["dolly", "instruction_context_response"])
def test_names_of_shapes_with_a_context(name: str) -> None:
    assert formats.named(name).shape.name == "instruction_response"


@pytest.mark.parametrize(
    "value",
    [
        {"system_prompt": "s", "question": "q", "response": "a"},
        {"system_prompt": "s", "instruction": "q", "output": "a"},
        {"system_prompt": "s", "conversations": [Q, A]},
        {"system": "", "system_prompt": "s", "prompt": "q", "completion": "a"},
    ],
)
def test_a_system_prompt(value: dict[str, Any]) -> None:
    assert talk(value) == [("s", "s"), ("u", "q"), ("a", "a")]
    assert unused([value]) == []


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (
            {"prompt": "q", "completion": "a", "id": 7, "category": "x", "difficulty": 0},
            ["category", "difficulty", "id"],
        ),
        ({"prompt": "q", "completion": "a", "notes": "", "tags": [], "more": None}, []),
        ({"messages": [Q, A], "system": "s"}, ["system"]),
        ({"prompt": "q", "completion": "a", "label": "geography"}, ["label"]),
        ({"prompt": "q", "completion": "a", "label": True, "why": "x"}, ["why"]),
        ({"prompt": "q", "chosen": "a", "rejected": "b", "margin": 0.5}, ["margin"]),
        ({"text": "t", "label": "x", "title": "y"}, ["title"]),
    ],
)
def test_columns_that_nothing_uses_are_named(value: dict[str, Any], names: list[str]) -> None:
    assert unused([value]) == names


def test_columns_that_the_user_did_not_name() -> None:
    rows = [{"frage": "q", "antwort": "a", "kontext": "c"}]
    assert unused(rows, {"prompt": "frage", "response": "antwort"}) == ["kontext"]


def test_files_with_the_same_columns_are_named_together() -> None:
    form = formats.named("prompt_completion")
    for file, more in (("a", {"x": 1}), ("b", {"x": 1}), ("c", {"y": 1})):
        form.of(file).read({"prompt": "q", "completion": "a", **more})
    assert [(each["code"], each["level"], each["message"]) for each in form.unused.findings()] == [
        ("data.unused_columns", "note", "a and 1 more: columns that are not used: x"),
        ("data.unused_columns", "note", "c: columns that are not used: y"),
    ]


def test_convert_names_them(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(orjson.dumps({"prompt": "q", "completion": "a", "topic": "x"}))
    report = convert(["rows.jsonl"], "openai", tmp_path / "out.jsonl", tmp_path)
    assert report["unused_columns"] == ["topic"]


@pytest.mark.parametrize(
    ("labels", "name"),
    [
        ([0, 1], "kto"),
        (["0", "1"], "kto"),
        ([1.0, 0.0], "kto"),
        ([1, -1], "kto"),
        (["good", "bad"], "kto"),
        (["thumbs_up", "Thumbs down", None], "kto"),
        (["yes", "no"], "kto"),
        ([True, False], "kto"),
        ([0, 1, 2], "prompt_completion"),
        (["good", "geography"], "prompt_completion"),
        (["yes", "bad"], "prompt_completion"),
        ([*range(40)], "prompt_completion"),
    ],
)
def test_a_label_rates_where_all_rows_say_so(labels: list[Any], name: str) -> None:
    rows = [{"prompt": "q", "completion": "a", "label": label} for label in labels]
    form = formats.detect(rows)
    assert (form.shape.name, form.share) == (name, 1.0 if None not in labels else form.share)
    if name == "kto":
        found = [form.read(row) for row in rows[:2]]
        good = [isinstance(each, Rated) and each.desirable for each in found]
        assert good == ([False, True] if labels[0] in (0, "0") and labels[0] is not False else [True, False])


@pytest.mark.parametrize(
    "value",
    [
        {"Question": "q", " Answer ": "a"},
        {"Messages": [{"role": "User", "content": "q"}, {"role": "ASSISTANT ", "content": "a"}]},
        {"INSTRUCTION": "q", "Input": "", "output": "a"},
    ],
)
def test_names_in_other_capitals(value: dict[str, Any]) -> None:
    assert talk(value) == [("u", "q"), ("a", "a")]


def test_the_exact_name_goes_first_and_the_report_says_what_was_read() -> None:
    value = {"question": "q", "Question": "other", "Answer": "a", "Topic": "x"}
    assert talk(value) == [("u", "q"), ("a", "a")]
    assert formats.detect([value]).report()["spelled"] == {"answer": "Answer"}
    assert unused([value]) == ["Question", "Topic"]


def test_a_preparation_tells_them_of_both_sides(encode: Tokenizer, tmp_path: Path) -> None:
    rows = [{"prompt": f"question {n}", "completion": f"answer {n}", "topic": "x", "id": n} for n in range(30)]
    for name, more in (("train.jsonl", {}), ("held.jsonl", {"grade": "y"})):
        made = [orjson.dumps({**row, **more, "completion": f"{row['completion']} {name[0]}"}) for row in rows]
        (tmp_path / name).write_bytes(b"\n".join(made))
    data = Data(path="train.jsonl", validation="held.jsonl", dedupe="none")
    found = prepare(data, objective="auto", seed=1, folder=tmp_path, tokenizer=encode).report["findings"]
    said = {each["message"] for each in found if each["code"] == "data.unused_columns"}
    assert said == {
        "train.jsonl: columns that are not used: topic, id",
        "held.jsonl: columns that are not used: topic, grade, id",
    }
