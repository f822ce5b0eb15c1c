"""Rows written in a notation and read again are the same; what a notation can't hold is refused."""

from __future__ import annotations

import resource
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from truetune.data import formats, readers, write
from truetune.data.notations import CONTENTS, NOTATIONS, natural, to_row
from truetune.data.rows import Content, Conversation, Document, Labelled, Preference, Rated, RowError, Turn
from truetune.data.shapes.table import SHAPES
from truetune.errors import ResourceError, UsageError

WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)
SAID = WORDS.filter(str.strip)
CELLS = st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters="\n\r\t"), min_size=1, max_size=12)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)
WEIGHTS = st.sampled_from([1.0, 1.0, 0.0, 0.5])


def call(name: str, arguments: Any, identity: str) -> dict[str, Any]:
    called = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return {"id": identity, **called} if identity else called


CALLS = st.builds(call, SAID, st.dictionaries(WORDS, VALUES, max_size=3), st.just("") | SAID)
DEFINITIONS = st.builds(
    lambda name, value: {"type": "function", "function": {"name": name, "parameters": value}},
    SAID,
    st.dictionaries(WORDS, VALUES, max_size=2),
)
TOOLS = st.lists(DEFINITIONS, max_size=2).map(tuple)
NAMES = st.just("") | SAID


def plain(texts: st.SearchStrategy[str], most: int = 3) -> st.SearchStrategy[Conversation]:
    said = texts.filter(str.strip)
    pairs = st.lists(
        st.tuples(st.builds(Turn, st.just("user"), said), st.builds(Turn, st.just("assistant"), said)),
        min_size=1,
        max_size=most,
    )
    system = st.just(()) | st.builds(Turn, st.just("system"), said).map(lambda turn: (turn,))
    return st.builds(lambda head, body: Conversation((*head, *(turn for pair in body for turn in pair))), system, pairs)


@st.composite
def talks(draw: st.DrawFn) -> Conversation:
    """With everything that a conversation can have."""
    turns = [Turn("system", draw(SAID), draw(WEIGHTS), name=draw(NAMES))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        turns.append(Turn("user", draw(SAID), name=draw(NAMES)))
        if draw(st.booleans()):
            calls = tuple(draw(st.lists(CALLS, min_size=1, max_size=2)))
            turns.append(Turn("assistant", draw(st.just("") | WORDS), draw(WEIGHTS), calls))
            turns.append(Turn("tool", draw(st.just("") | WORDS), name=draw(NAMES), call_id=draw(NAMES)))
        turns.append(Turn("assistant", draw(SAID), draw(WEIGHTS), name=draw(NAMES)))
    return Conversation(tuple(turns), draw(TOOLS))


@st.composite
def preferences(
    draw: st.DrawFn, talk: st.SearchStrategy[Conversation], texts: st.SearchStrategy[str] = WORDS
) -> Preference:
    found = draw(talk)
    said = texts.filter(str.strip)
    better = draw(said)
    worse = draw(said.filter(lambda text: text != better))
    return Preference(found.turns[:-1], (Turn("assistant", better),), (Turn("assistant", worse),), found.tools)


def labelled(texts: st.SearchStrategy[str], notation: str) -> st.SearchStrategy[Labelled]:
    said = texts.filter(str.strip)
    count = {"min_size": 1, "max_size": 1} if notation != "multilabel" else {"max_size": 3}
    labels = st.lists(said, unique=True, **count).map(tuple)
    return st.builds(Labelled, said, labels, said if notation == "pairs" else st.just(""))


FULL: dict[str, st.SearchStrategy[Any]] = {
    "openai": talks(),
    "sharegpt": talks(),
    "alpaca": plain(WORDS),
    "prompt_completion": talks() | plain(WORDS),
    "text": st.builds(Document, SAID),
    "preference": preferences(talks() | plain(WORDS, 1)),
    "kto": st.builds(Rated, talks() | plain(WORDS), st.booleans()),
    **{name: labelled(WORDS, name) for name in ("classification", "pairs", "multilabel")},
}
CSV: dict[str, st.SearchStrategy[Any]] = {
    "alpaca": plain(CELLS, 1),
    "prompt_completion": plain(CELLS, 1),
    "text": st.builds(Document, CELLS.filter(str.strip)),
    "preference": preferences(plain(CELLS, 1), CELLS),
    "kto": st.builds(Rated, plain(CELLS, 1), st.booleans()),
    **{name: labelled(CELLS, name) for name in ("classification", "pairs")},
}
CASES = [(name, suffix, drawn) for suffix in ("jsonl", "json", "parquet") for name, drawn in FULL.items()]
CASES += [(name, "csv", drawn) for name, drawn in CSV.items()]


def through(contents: Sequence[Content], notation: str, path: Path) -> list[Content]:
    """What is read of a file into which these contents were written."""
    with write.writer(path, notation) as writer:
        for content in contents:
            writer.add(content)
    assert writer.count == len(contents)
    values = [value for _, value, _ in readers.read(path)]
    form = formats.detect(values)  # type: ignore[arg-type]
    assert form.share == 1.0
    return [form.read(value) for value in values]  # type: ignore[arg-type]


@pytest.mark.parametrize(("notation", "suffix", "drawn"), CASES, ids=[f"{name}.{suffix}" for name, suffix, _ in CASES])
def test_what_is_written_is_read_again(notation: str, suffix: str, drawn: st.SearchStrategy[Any]) -> None:
    @settings(max_examples=25, deadline=None)
    @given(st.lists(drawn, min_size=1, max_size=3))
    def check(contents: list[Content]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            assert through(contents, notation, Path(folder) / f"rows.{suffix}") == contents

    check()


def test_every_notation_and_every_kind_of_file_is_tried() -> None:
    assert {name for name, _, _ in CASES} == set(NOTATIONS)
    assert {f".{suffix}" for _, suffix, _ in CASES} == set(write.SINKS)


ASK, REPLY = Turn("user", "q"), Turn("assistant", "a")
TALK = Conversation((ASK, REPLY))
CALLING = Conversation((ASK, Turn("assistant", "", calls=(call("f", {}, ""),))))


@pytest.mark.parametrize(
    ("content", "notation"),
    [
        (CALLING, "alpaca"),
        (Conversation((ASK, REPLY), (call("f", {}, ""),)), "alpaca"),
        (Conversation((ASK, Turn("assistant", "a", 0.5))), "alpaca"),
        (Conversation((ASK, ASK, REPLY)), "alpaca"),
        (Document("t"), "openai"),
        (TALK, "text"),
        (TALK, "preference"),
        (Rated(TALK, True), "openai"),
        (Labelled("t", ("a", "b")), "classification"),
        (Labelled("t", ("a",), "u"), "classification"),
        (Labelled("t", ("a",)), "pairs"),
        (Labelled("t", ("a",), "u"), "multilabel"),
    ],
)
def test_what_a_notation_cannot_hold(content: Content, notation: str) -> None:
    with pytest.raises(RowError) as caught:
        to_row(content, notation)
    assert caught.value.code == "data.notation" and caught.value.reason


@pytest.mark.parametrize(
    ("content", "notation"),
    [(CALLING, "prompt_completion"), (Conversation((ASK, REPLY, ASK, REPLY)), "alpaca"), (TALK, "openai")],
)
def test_lists_do_not_fit_into_the_cells_of_csv(tmp_path: Path, content: Content, notation: str) -> None:
    with write.writer(tmp_path / "a.csv", notation) as writer:
        with pytest.raises(RowError) as caught:
            writer.add(content)
        assert caught.value.code == "data.notation" and writer.count == 0


def test_rows_look_as_other_tools_want_them() -> None:
    assert to_row(TALK, "openai") == {
        "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    }
    assert to_row(CALLING, "openai")["messages"][1]["tool_calls"] == [
        {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    ]
    assert to_row(CALLING, "sharegpt")["conversations"][1] == {
        "from": "function_call",
        "value": '{"name":"f","arguments":{}}',
    }
    several = Conversation((Turn("system", "s"), ASK, REPLY, Turn("user", "r"), REPLY))
    assert to_row(several, "alpaca") == {
        "instruction": "r",
        "input": "",
        "output": "a",
        "system": "s",
        "history": [["q", "a"]],
    }
    assert to_row(Rated(TALK, False), "kto") == {"prompt": "q", "completion": "a", "label": False}


def test_every_shape_has_a_notation_that_holds_it() -> None:
    assert {NOTATIONS[natural(shape)].kind for shape in SHAPES.values()} == set(CONTENTS)


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.parquet"):
        with pytest.raises(KeyError), write.writer(tmp_path / name, "text") as writer:
            writer.add(Document("t"))
            raise KeyError
    assert list(tmp_path.iterdir()) == []
    with write.writer(tmp_path / "a.json", "text"):
        pass
    assert (tmp_path / "a.json").read_text() == "[]\n"


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
def test_a_disk_that_takes_no_more(tmp_path: Path, kind: str) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(ResourceError) as caught, write.writer(tmp_path / f"a.{kind}", "text") as writer:
            for number in range(2000):
                writer.add(Document(f"a text of some length, and that is number {number * 7919}"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (caught.value.code, caught.value.exit_code) == ("data.write", 4)
    assert list(tmp_path.iterdir()) == []


def test_names_that_cannot_be_written(tmp_path: Path) -> None:
    for path, notation, code in (("a.xlsx", "text", "data.out"), ("a.json", "poem", "data.notation")):
        with pytest.raises(UsageError) as caught, write.writer(tmp_path / path, notation):
            pass
        assert caught.value.code == code and caught.value.hint


def test_texts_that_nothing_can_write(tmp_path: Path) -> None:
    with write.writer(tmp_path / "a.jsonl", "text") as writer, pytest.raises(RowError):
        writer.add(Document("\ud800"))
    with pytest.raises(ResourceError) as caught, write.writer(tmp_path / "no" / "a.json", "text"):
        pass
    assert caught.value.code == "data.write"
