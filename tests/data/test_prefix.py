"""Where a prompt ends is found without encoding it, and never claimed where its ids are others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from truetune.data.prefix import Prefix
from truetune.models.tokenizer import Tokenizer, load
from truetune.testing import tokens
from truetune.testing.templates import CHATML

FAMILIES = {"bytes": tokens.byte_level, "pieces": tokens.metaspace}
MARKS = ["<|im_start|>", "<|im_end|>", "<s>", "\n", " ", "\n\n", "assistant", "a", "1"]
texts = st.lists(st.one_of(st.sampled_from(MARKS), st.text(max_size=4)), max_size=8).map("".join)


@pytest.fixture(scope="module", params=FAMILIES)
def encode(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load(FAMILIES[request.param](tmp_path_factory.mktemp("tokenizer"), template=CHATML))


def found(encode: Tokenizer, prefix: Prefix, prompt: str, full: str) -> int | None:
    rest, ids = encode.encode_batch([prefix.rest(prompt), full])
    return prefix.size(prompt, rest, full, ids)


@given(prompts=st.lists(texts, min_size=1, max_size=3), answer=texts)
@settings(max_examples=300, deadline=None)
def test_what_is_found_are_the_ids_of_the_prompt(encode: Tokenizer, prompts: list[str], answer: str) -> None:
    prefix = Prefix(encode)
    for prompt in prompts:
        size = found(encode, prefix, prompt, prompt + answer)
        assert size is None or encode.encode(prompt + answer)[:size] == encode.encode(prompt)


def test_an_ordinary_prompt_is_found(encode: Tokenizer) -> None:
    prompt = "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    prefix = Prefix(encode)
    assert prefix.rest(prompt) == "<|im_start|>assistant\n"
    assert found(encode, prefix, prompt, f"{prompt}Because.<|im_end|>") == len(encode.encode(prompt))


def test_a_rest_that_the_answer_joins_is_not_found(encode: Tokenizer) -> None:
    prompt = "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assi"
    size = found(encode, Prefix(encode), prompt, f"{prompt}stant")
    assert size is None or encode.encode(f"{prompt}stant")[:size] == encode.encode(prompt)


@pytest.mark.parametrize("kind", ["lstrip", "rstrip", "single_word", "normalized"])
def test_tokens_that_look_around_are_no_borders(tmp_path: Path, kind: str) -> None:
    encode = load(tokens.byte_level(tmp_path, template=CHATML))
    token = AddedToken("<|turn|>", special=True, **{"normalized": False} | {kind: True})
    encode.backend.add_special_tokens([token])
    assert Prefix(encode).rest("Why?<|turn|>now") == ""


@given(begin=texts, answer=texts)
@settings(max_examples=300, deadline=None)
def test_the_last_token_of_what_a_text_begins_with(encode: Tokenizer, begin: str, answer: str) -> None:
    begin, mark = f"{begin}<|im_end|>", "<|im_end|>"
    text = begin + answer
    (ids,) = encode.encode_batch([text])
    _, offsets = encode.encode_with_offsets(text)
    place = Prefix(encode).last(mark, begin, text, ids)
    assert place is not None and offsets[place] == (len(begin) - len(mark), len(begin))


def test_an_ordinary_word_is_no_border(encode: Tokenizer) -> None:
    (ids,) = encode.encode_batch(["a a"])
    assert Prefix(encode).last("a", "a", "a a", ids) is None


@pytest.mark.parametrize("other", ["<|turn|>s", "<<|turn|>", "<<|turn", "x<|turn|>x"])
def test_tokens_that_another_may_take_in_are_no_borders(tmp_path: Path, other: str) -> None:
    encode = load(tokens.byte_level(tmp_path, template=CHATML))
    encode.backend.add_special_tokens(["<|turn|>"])
    prompt, (ids,) = "Why?<|turn|>", encode.encode_batch(["Why?<|turn|>now"])
    assert Prefix(encode).last("<|turn|>", prompt, f"{prompt}now", ids) is not None
    encode.backend.add_tokens([other])
    assert Prefix(encode).last("<|turn|>", prompt, f"{prompt}now", ids) is None


def test_ids_that_a_model_makes_of_other_words_are_no_borders(encode: Tokenizer) -> None:
    """Another spelling of a control token, as a normalizer may write it."""
    prompt, mark = "Why?<|im_end|>", encode.id("<|im_end|>") or 0
    (ids,) = encode.encode_batch([f"{prompt}now"])
    twice = np.append(ids, np.int32(mark))
    assert Prefix(encode).last("<|im_end|>", prompt, f"{prompt}now", twice) is None
