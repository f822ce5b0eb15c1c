"""What a sample asks and shows: of a text its beginning and how it goes on, of a conversation question and answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from truetune.data.example import Example
from truetune.models import source, tokenizer
from truetune.train.reading import BEGINNING, PARTIAL, reader, text_ends
from truetune.train.samples import chosen

ENCODE = tokenizer.load(source.STARTER)
TEXTS = reader(ENCODE, None)
STORY = "The mill stands by the water. It was built long ago by people who knew how stone and wood go together. " * 9


def document(text: str, row: int = 0, encode: tokenizer.Tokenizer = ENCODE) -> Example:
    """A text as the data makes it an example: everything but the first token is trained, the end too."""
    ids = np.array([*encode.encode_document(text), encode.eos_id], dtype=np.int32)
    return Example(ids, np.r_[0, np.ones(len(ids) - 1)].astype(np.float32), row)


@pytest.mark.parametrize("length", [12, 60, 150, 900])
def test_a_text_is_cut_where_a_word_ends(length: int) -> None:
    text = STORY[:length]
    example = document(text)
    prompt = TEXTS.prompt(example)
    asked = TEXTS.asked(prompt)
    assert len(prompt) <= BEGINNING and text.startswith(asked)
    assert not asked[-1].isspace() and text[len(asked)].isspace()
    assert text.startswith(asked + TEXTS.reference(example, len(prompt), 10_000)[:20])


def test_writing_without_spaces_is_cut_between_characters() -> None:
    text = "日本語のテキストはここから始まり、どこまでも続いていくのである。🧿" * 3
    asked = TEXTS.asked(TEXTS.prompt(document(text)))
    assert asked and text.startswith(asked)


@settings(deadline=None)
@given(st.text(min_size=1).filter(lambda text: not ENCODE.special.search(text)))
def test_any_text_has_a_beginning(text: str) -> None:
    example = document(text)
    prompt = TEXTS.prompt(example)
    assert 1 <= len(prompt) < example.tokens or example.tokens == 1
    assert example.ids.tolist()[: len(prompt)] == prompt


def test_the_text_goes_on_as_far_as_the_model_may() -> None:
    example = document(STORY)
    start = len(TEXTS.prompt(example))
    assert len(ENCODE.encode(TEXTS.reference(example, start, 20))) == 20
    short = document("one two")
    assert TEXTS.reference(short, 1, 20) == " two"  # without the token that ends it


def test_half_a_character_is_not_shown() -> None:
    cut = ENCODE.encode("ok 🧿")[:-1]
    assert ENCODE.decode(cut).endswith(PARTIAL)
    assert TEXTS.said(cut) == "ok "


def test_a_text_ends_as_its_family_ends_texts() -> None:
    """The starter's end token is that of a turn; its pretraining ended texts with another."""
    ends = {ENCODE.text(end) for end in text_ends(ENCODE)}
    assert ends == {"<|im_end|>", "<|endoftext|>"} and len(ENCODE.eos_ids) == 1
    answer = [*ENCODE.encode("It stands."), ENCODE.id("<|endoftext|>") or 0]
    assert TEXTS.ended(answer) and TEXTS.said(answer) == "It stands."
    assert not TEXTS.ended(answer[:-1]) and not TEXTS.ended([])


def test_a_token_that_begins_a_text_is_not_read() -> None:
    words = {word: number for number, word in enumerate(["<unk>", "<s>", "</s>", "▁the", "▁mill", "▁stands", "▁here"])}
    backend = tokenizers.Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens(["<s>", "</s>"])
    encode = replace(ENCODE, backend=backend, tokens={"bos_token": "<s>"}, adds_bos=True, eos_ids=(2,))
    texts = reader(encode, None)
    example = document("the mill stands here", encode=encode)
    prompt = texts.prompt(example)
    assert prompt[0] == 1 and texts.asked(prompt) == "the mill"
    assert texts.reference(example, len(prompt), 9).split() == ["stands", "here"]


def test_a_long_text_is_sampled_at_its_beginning() -> None:
    windows = [document(text, row) for row, text in [(3, "a b"), (3, "c d"), (5, "e f"), (5, "g h"), (7, "i j")]]
    assert chosen(windows, 2) == [windows[0], windows[2]]
    assert chosen(windows, 9) == [windows[0], windows[2], windows[4]] and chosen(windows, 0) == []


def test_a_conversation_is_asked_up_to_its_first_answer() -> None:
    template = ENCODE.template
    assert template is not None
    turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]
    ids = np.array(ENCODE.encode(template.render(turns[:1], add_generation_prompt=True)), dtype=np.int32)
    answer = np.array([*ENCODE.encode("Because."), ENCODE.eos_id], dtype=np.int32)
    weights = np.r_[np.zeros(len(ids)), np.ones(len(answer))].astype(np.float32)
    talk = reader(ENCODE, template)
    example = Example(np.r_[ids, answer], weights, 0)
    assert talk.prompt(example) == ids.tolist()
    assert (talk.asked(ids.tolist()), talk.reference(example, len(ids), 1)) == ("Why?", "Because.")
