"""`AutoTokenizer` as the oracle: equal ids, equal chat texts."""

from __future__ import annotations

from pathlib import Path

import pytest

from truetune.models.tokenizer import load
from truetune.testing import tokens
from truetune.testing.templates import CASES, Case

TEXTS = [
    "How do I train?",
    "",
    " a  b\n\n\tc ",
    "日本 🙂 é",
    "x</s>y<|im_end|> z",
    "<s> hello\r\n",
    "1234567.89",
    "ﬁ Å",
]


@pytest.mark.slow
@pytest.mark.parametrize("build", [tokens.byte_level, tokens.metaspace])
def test_ids_are_equal(tmp_path: Path, build: object) -> None:
    from transformers import AutoTokenizer

    folder = build(tmp_path)  # type: ignore[operator]
    ours, theirs = load(folder), AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False)
        assert ours.encode_document(text or "a") == theirs.encode(text or "a")
        assert ours.decode(ours.encode(text)) == theirs.decode(theirs.encode(text, add_special_tokens=False))
    assert (ours.bos, ours.eos, ours.pad) == (theirs.bos_token, theirs.eos_token, theirs.pad_token)
    assert ours.vocabulary == len(theirs)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_chats_are_equal(tmp_path: Path, case: Case) -> None:
    from transformers import AutoTokenizer

    folder = tokens.byte_level(tmp_path, template=case.source, specials=(*tokens.SPECIALS, *case.specials))
    ours, theirs = load(folder), AutoTokenizer.from_pretrained(folder)
    turns = [("user", "a <b> 'c' "), ("assistant", "\n<think>\nx\n</think>\n\nd é"), ("user", "e"), ("assistant", "f")]
    messages = [{"role": role, "content": content} for role, content in turns]
    if case.system:
        messages.insert(0, {"role": "system", "content": "be\nkind"})
    assert ours.template is not None
    for stop in range(2 if case.system else 1, len(messages) + 1):
        for prompt in (False, True):
            text = ours.template.render(messages[:stop], add_generation_prompt=prompt)
            assert text == theirs.apply_chat_template(messages[:stop], tokenize=False, add_generation_prompt=prompt)
            ids = theirs.apply_chat_template(messages[:stop], add_generation_prompt=prompt, return_dict=False)
            assert ours.encode(text) == ids
