"""Rows that are too long: split where a question begins, each answer trained once; an end is never cut in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from truetune.config.schema import Data
from truetune.data.fit import fit, portions
from truetune.data.prepare import Prepared, prepare
from truetune.data.render import Renderer
from truetune.data.rows import Conversation, Preference, RowError, Turn
from truetune.errors import InputError
from truetune.models.tokenizer import Tokenizer

BUSY = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def talk(sizes: list[int], system: bool) -> Conversation:
    head = (Turn("system", "Be brief."),) if system else ()
    turns = [
        turn
        for number, words in enumerate(sizes)
        for turn in (Turn("user", f"ask {number}"), Turn("assistant", f"reply {number}" + " seven" * words))
    ]
    return Conversation((*head, *turns))


def trained(encode: Tokenizer, parts: Any) -> list[str]:
    """The trained stretches of text, one for each answer."""
    found = []
    for part in parts:
        ids = [int(token) for token, weight in zip(part.ids, part.weights, strict=True) if weight]
        found += [each + "<|im_end|>" for each in encode.decode(ids).split("<|im_end|>")[:-1]]
    return found


def renderer(encode: Tokenizer, train_on: str = "assistant") -> Renderer:
    assert encode.template is not None
    return Renderer(encode, encode.template, train_on)


@BUSY
@given(st.lists(st.integers(0, 12), min_size=1, max_size=9), st.booleans())
def test_each_answer_that_fits_is_trained_once(encode: Tokenizer, sizes: list[int], system: bool) -> None:
    row, render = talk(sizes, system), renderer(encode)
    head = row.turns[:1] if system else ()
    pairs = [row.turns[at : at + 2] for at in range(len(head), len(row.turns), 2)]
    wanted = []
    for pair in pairs:
        (part,) = render.one(Conversation((*head, *pair))).parts
        if len(part.ids) <= 120:
            wanted.append(f"{pair[1].content}<|im_end|>")
    try:
        found = portions(row, render.one(row), render, 120)
    except RowError as error:
        assert error.code == "data.too_long" and not wanted
        return
    assert trained(encode, found.parts) == wanted
    assert all(len(part.ids) <= 120 and part.closed for part in found.parts)
    assert (found.lost > 0) == (len(wanted) < len(pairs))
    assert all(("Be brief." in encode.decode(part.ids.tolist())) == system for part in found.parts)


def test_only_the_last_answer_is_trained_where_that_is_wanted(encode: Tokenizer) -> None:
    row, render = talk([5] * 6, True), renderer(encode, "last")
    found = portions(row, render.one(row), render, 120)
    assert trained(encode, found.parts) == [f"{row.turns[-1].content}<|im_end|>"]


def test_a_call_of_a_tool_stays_with_its_answer(encode: Tokenizer) -> None:
    turns = [("user", "ask"), ("assistant", "let me see"), ("tool", "seven " * 4), ("assistant", "it is seven")]
    row = Conversation(tuple(Turn(role, text) for role, text in turns * 3))
    render = renderer(encode)
    whole = render.one(row)
    found = portions(row, whole, render, len(whole.parts[0].ids) // 2)
    assert len(found.parts) == 3
    assert all(encode.decode(part.ids.tolist()).count("let me see") == 1 for part in found.parts)


@BUSY
@given(st.lists(st.integers(0, 20), min_size=1, max_size=5), st.integers(8, 160))
def test_a_cut_end_is_never_counted_as_closed(encode: Tokenizer, sizes: list[int], length: int) -> None:
    rendered = renderer(encode).one(talk(sizes, False))
    try:
        found = fit(rendered, length, "truncate")
    except RowError as error:
        assert error.code == "data.too_long"
        return
    (part,), (full,) = found.parts, rendered.parts
    assert found.lost == len(full.ids) - len(part.ids)
    assert part.closed == (found.lost == 0)


def run(encode: Tokenizer, folder: Path, rows: list[Any], **values: Any) -> Prepared:
    (folder / "rows.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)))
    data = Data(path="rows.jsonl", validation=None, **values)
    return prepare(data, objective="auto", seed=1, folder=folder, tokenizer=encode)


def test_split_is_counted(encode: Tokenizer, tmp_path: Path) -> None:
    messages = talk([8] * 6, True).messages()
    rows = [
        {"messages": messages},
        {"messages": talk([1], False).messages()},
        {"messages": talk([299], False).messages()},
    ]
    found = run(encode, tmp_path, rows, too_long="split", max_length=160)
    count = found.report["rows"]
    assert (count["used"], count["too_long"], count["truncated"]) == (2, 1, 0)
    assert {each.row for each in found.train} == {0, 1} and len(found.train) > 2
    assert found.report["end_of_turn_supervised"] == 1.0
    assert found.report["supervised"]["train"] == found.train.supervised


@pytest.mark.parametrize("too_long", ["drop", "truncate", "split", "error"])
def test_short_rows_are_the_same_under_every_rule(encode: Tokenizer, tmp_path: Path, too_long: str) -> None:
    found = run(encode, tmp_path, [{"messages": talk([1, 2], True).messages()}], too_long=too_long)
    assert len(found.train) == 1 and found.report["tokens"]["lost"] == 0


@pytest.mark.parametrize(
    ("rule", "words"), [("split", "one question and answer of"), ("truncate", "nothing of the answer is left")]
)
def test_one_exchange_that_is_too_long_is_told_what_helps(
    encode: Tokenizer, tmp_path: Path, rule: str, words: str
) -> None:
    asked = [{"prompt": f"{number} " + "seven " * 99, "completion": "reply " * 99} for number in range(3)]
    found = run(encode, tmp_path, [*asked, {"prompt": "a", "completion": "b"}], too_long=rule, max_length=64)
    assert {(each["code"], words in each["reason"]) for each in found.rejects} == {("data.too_long", True)}
    with pytest.raises(InputError) as caught:
        run(encode, tmp_path, asked, too_long=rule, max_length=64)
    assert ("truncate" in caught.value.finding.hint) == (rule == "split")


def test_a_side_of_a_pair_whose_answer_is_cut_away_is_too_long(encode: Tokenizer) -> None:
    question = (Turn("user", "ask"),)
    sides = [(Turn("assistant", "yes"),), (Turn("tool", "seven " * 99), Turn("assistant", "no"))]
    rendered = renderer(encode).one(Preference(question, sides[0], sides[1]))
    with pytest.raises(RowError) as caught:
        fit(rendered, 64, "truncate")
    assert caught.value.code == "data.too_long"


def test_one_row_is_counted_in_the_singular(encode: Tokenizer, tmp_path: Path) -> None:
    long = {"prompt": "a", "completion": "reply " * 99}
    rows = [*({"prompt": f"{n} ask", "completion": f"{n}"} for n in range(4)), long]
    found = run(encode, tmp_path, rows, too_long="truncate", max_length=64)
    (told,) = [each["message"] for each in found.report["findings"] if each["code"] == "data.lost"]
    assert told.startswith("max_length cuts ") and told.endswith(" tokens of 1 row")
    with pytest.raises(InputError, match="1 row is longer than max_length"):
        run(encode, tmp_path, rows, too_long="error", max_length=64)
