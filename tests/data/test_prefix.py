"""Where a prompt ends is found without encoding it, and never claimed where its ids are others."""

from __future__ import annotations

from pathlib import Path

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
    (encoding,) = encode.encode_batch([full])
    return prefix.size(prompt, encode.encode(prefix.rest(prompt)), encoding, list(encoding.ids))


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
