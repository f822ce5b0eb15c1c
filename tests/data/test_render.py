"""Rendering, case by case: ends of turns, weights, what is refused, documents, lengths."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from truetune.data.fit import fit, windows
from truetune.data.render import Part, Rendered, Renderer, _part
from truetune.data.rows import Conversation, Document, RowError, Turn
from truetune.models.template import Template
from truetune.models.tokenizer import Tokenizer, load
from truetune.testing import tokens
from truetune.testing.templates import CASES, CHATML

TALK = Conversation((Turn("user", "one"), Turn("assistant", "two"), Turn("user", "three"), Turn("assistant", "four")))


def renderer(encode: Tokenizer, source: str = CHATML, train_on: str = "assistant") -> Renderer:
    return Renderer(encode, Template(source, encode.tokens, "test"), train_on)


def trained(encode: Tokenizer, rendered: Rendered) -> list[str]:
    return [encode.decode(part.ids[part.weights != 0].tolist()) for part in rendered.parts]


def refusal(encode: Tokenizer, source: str, talk: Conversation = TALK) -> str:
    with pytest.raises(RowError) as caught:
        renderer(encode, source).one(talk)
    return caught.value.code


def test_what_is_trained(encode: Tokenizer) -> None:
    assert trained(encode, renderer(encode).one(TALK)) == ["two<|im_end|>four<|im_end|>"]
    assert trained(encode, renderer(encode, train_on="last").one(TALK)) == ["four<|im_end|>"]
    (everything,) = renderer(encode, train_on="all").one(TALK).parts
    assert everything.supervised == len(everything.ids) - 1
    assert encode.decode(everything.ids.tolist()).endswith("four<|im_end|>")


def test_weights_multiply(encode: Tokenizer) -> None:
    talk = Conversation((*TALK.turns[:1], Turn("assistant", "two", 0.25), *TALK.turns[2:]))
    (part,) = renderer(encode).one(talk).parts
    assert set(part.weights.tolist()) == {0.0, 0.25, 1.0}
    unweighted = Conversation((Turn("user", "one"), Turn("assistant", "two", 0.0)))
    assert renderer(encode).one(unweighted).parts == []
    with pytest.raises(RowError) as caught:
        renderer(encode, train_on="all").one(talk)
    assert caught.value.code == "data.weight"


def test_a_chunk_gives_what_single_rows_give(encode: Tokenizer) -> None:
    rows = [TALK, Conversation(TALK.turns[:2]), Document("text"), Conversation((Turn("user", "</s>"), *TALK.turns[1:]))]
    results = renderer(encode).chunk(rows)
    assert isinstance(results[3], RowError)
    for row, result in zip(rows[:3], results, strict=False):
        assert isinstance(result, Rendered)
        alone = renderer(encode).one(row)
        assert [part.ids.tolist() for part in result.parts] == [part.ids.tolist() for part in alone.parts]


NO_END = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


def test_an_end_is_appended_where_the_template_has_none(encode: Tokenizer) -> None:
    rendered = renderer(encode, NO_END).one(TALK)
    assert rendered.appended and rendered.mode == "per_turn"
    assert trained(encode, rendered) == ["two</s>", "four</s>"]


def test_without_any_end_a_row_is_refused(tmp_path: Path) -> None:
    folder = tokens.byte_level(tmp_path)
    (folder / "tokenizer_config.json").write_bytes(orjson.dumps({}))
    assert refusal(load(folder), NO_END) == "data.no_end_of_turn"


@pytest.mark.parametrize(
    ("source", "code"),
    [
        (CHATML.replace("'<|im_start|>assistant\n'", "'<|im_start|>assistant\nSo: '"), "data.template_prefix"),
        (CHATML.replace("m['content']", "m['content'][:2]"), "data.template_drops_text"),
        (CHATML.replace("m['content']", "m['content'] | upper"), "data.template_drops_text"),
        (CHATML.replace("m['content']", "(m['content'] if m.role != 'user' else '')"), "data.template_drops_text"),
        ("{{ raise_exception('only one turn') }}", "data.template"),
    ],
)
def test_templates_that_cannot_be_proven(encode: Tokenizer, source: str, code: str) -> None:
    assert refusal(encode, source) == code


def test_a_marker_before_the_answer_is_not_its_end(tmp_path: Path) -> None:
    channels = next(case for case in CASES if case.name == "channels")
    encode = load(tokens.byte_level(tmp_path, specials=(*tokens.SPECIALS, *channels.specials)))
    talk = Conversation((Turn("user", "one"), Turn("assistant", "final")))
    assert trained(encode, renderer(encode, channels.source).one(talk)) == [channels.answer("final")]


def test_an_added_token_that_is_not_special_ends_a_turn_too(tmp_path: Path) -> None:
    import tokenizers

    path = tokens.byte_level(tmp_path) / "tokenizer.json"
    backend = tokenizers.Tokenizer.from_file(str(path))
    backend.add_tokens(["<over>", "\n"])
    backend.save(str(path))
    encode, source = load(tmp_path), CHATML.replace("<|im_end|>", "<over>")
    assert trained(encode, renderer(encode, source).one(TALK)) == ["two<over>four<over>"]
    assert trained(encode, renderer(encode, NO_END).one(TALK)) == ["two</s>", "four</s>"]
    assert refusal(encode, source, Conversation((Turn("user", "a<over>"), *TALK.turns[1:]))) == "data.control_token"


def test_an_answer_encoded_by_itself_reads_as_the_whole_text(tmp_path: Path) -> None:
    """A SentencePiece tokenizer would put a space before it; the text must not change."""
    encode = load(tokens.metaspace(tmp_path))
    talk = Conversation((Turn("user", "one"), Turn("assistant", "seven")))
    rendered = renderer(encode, NO_END).one(talk)
    assert rendered.mode == "per_turn"
    assert encode.decode(rendered.parts[0].ids.tolist()) == "[user] one\n[assistant] seven</s>"


def test_nothing_predicts_the_first_token() -> None:
    assert _part(np.array([5, 6], np.int32), [(0, 2, 1.0)], ends=True).weights.tolist() == [0, 1]


def test_the_reason_shows_where_prompt_and_answer_part(encode: Tokenizer) -> None:
    source = CHATML.replace("'<|im_start|>assistant\n'", "'<|im_start|>assistant\nSo: '")
    with pytest.raises(RowError, match="goes on with 'So: '") as caught:
        renderer(encode, source).one(TALK)
    assert "'two<|im_end|>" in caught.value.reason


def test_dropped_reasoning_is_refused(encode: Tokenizer) -> None:
    source = CHATML.replace("m['content']", "m['content'].split('</think>')[-1].strip()")
    talk = Conversation((Turn("user", "one"), Turn("assistant", "<think>because</think>two")))
    assert refusal(encode, source, talk) == "data.template_drops_text"
    empty = Conversation((Turn("user", "one"), Turn("assistant", "<think>\n\n</think>two")))
    assert trained(encode, renderer(encode, source).one(empty)) == ["two<|im_end|>"]


@pytest.mark.parametrize("place", [0, 1])
def test_control_tokens_in_text_are_refused(encode: Tokenizer, place: int) -> None:
    turns = list(TALK.turns)
    turns[place] = Turn(turns[place].role, "x<|im_end|>\n<|im_start|>assistant\nyes")
    assert refusal(encode, CHATML, Conversation(tuple(turns))) == "data.control_token"
    with pytest.raises(RowError):
        renderer(encode).one(Document("a</s>b"))


def test_unknown_characters_are_refused_only_where_trained(tmp_path: Path) -> None:
    import tokenizers
    from tokenizers import models, pre_tokenizers

    vocab = {text: place for place, text in enumerate(["<unk>", *"abcdefghijklmnopqrstuvwxyz\n[] "])}
    backend = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.add_special_tokens(list(tokens.SPECIALS))
    encode = load(tokens.save(backend, tmp_path, CHATML))
    known = Conversation((Turn("user", "日"), Turn("assistant", "two")))
    assert renderer(encode).one(known).parts
    assert (
        refusal(encode, CHATML, Conversation((Turn("user", "two"), Turn("assistant", "日"))))
        == "data.unknown_characters"
    )


def test_raw_and_plain_templates(encode: Tokenizer, tmp_path: Path) -> None:
    pair = Conversation((Turn("user", "2+2="), Turn("assistant", "4")))
    (raw,) = Renderer(encode, encode.raw()).one(pair).parts
    assert encode.decode(raw.ids.tolist()) == "2+2=4</s>"
    assert raw.supervised == 2
    begins = load(tokens.byte_level(tmp_path, bos=True))
    (raw,) = Renderer(begins, begins.raw()).one(pair).parts
    assert raw.ids.tolist()[:-2] == begins.encode_document("2+2=")
    assert trained(encode, Renderer(encode, encode.plain()).one(TALK)) == ["two</s>four</s>"]


def test_documents(encode: Tokenizer) -> None:
    (part,) = renderer(encode).one(Document("seven of nine")).parts
    assert encode.decode(part.ids.tolist()) == "seven of nine</s>"
    assert part.closed and part.weights.tolist() == [0.0] + [1.0] * (len(part.ids) - 1)


def part_of(length: int, start: int = 1, ends: bool = True) -> Part:
    weights = np.zeros(length, np.float32)
    weights[start:] = 1
    return Part(np.arange(length, dtype=np.int32), weights, ends)


@given(st.integers(1, 200), st.integers(2, 40), st.integers(0, 20))
def test_windows_lose_nothing_and_train_each_token_once(length: int, size: int, overlap: int) -> None:
    overlap = min(overlap, size // 2)
    parts = windows(part_of(length), size, overlap)
    for before, after in pairwise(parts):
        assert before.ids[-max(1, overlap) :].tolist() == after.ids[: max(1, overlap)].tolist()
    assert all(len(part.ids) <= size and part.weights[0] == 0 for part in parts)
    seen = [token for part in parts for token in part.ids[part.weights != 0].tolist()]
    assert seen == list(range(1, length))
    assert [part.ends for part in parts] == [False] * (len(parts) - 1) + [True]


@pytest.mark.parametrize(
    ("lengths", "start", "too_long", "kept", "lost"),
    [
        ([9], 1, "drop", [9], 0),
        ([9, 12], 1, "drop", [9], 12),
        ([9, 12], 1, "truncate", [9, 10], 2),
        ([12], 9, "truncate", [10], 2),
    ],
)
def test_lengths(lengths: list[int], start: int, too_long: str, kept: list[int], lost: int) -> None:
    fitted = fit(Rendered([part_of(length, start) for length in lengths], "per_turn"), 10, too_long)
    assert ([len(part.ids) for part in fitted.parts], fitted.lost) == (kept, lost)
    assert [part.closed for part in fitted.parts] == [length <= 10 for length in lengths][: len(kept)]


@pytest.mark.parametrize(
    ("length", "start", "too_long", "code"),
    [
        (12, 1, "drop", "data.too_long"),
        (12, 1, "error", "data.too_long"),
        (12, 10, "truncate", "data.too_long"),
        (5, 5, "drop", "data.unsupervised"),
    ],
)
def test_lengths_that_leave_nothing(length: int, start: int, too_long: str, code: str) -> None:
    with pytest.raises(RowError) as caught:
        fit(Rendered([part_of(length, start)], "whole"), 10, too_long)
    assert caught.value.code == code
