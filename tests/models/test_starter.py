"""The model that ships with TrueTune: small, loadable without the network, made from text of our own."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from truetune.models import facts, source

ROOT = Path(__file__).parents[2]
SUPPORT = ROOT / "examples" / "support" / "support.jsonl"
TOKENIZER = tokenizers.Tokenizer.from_file(str(source.STARTER / "tokenizer.json"))


@pytest.fixture
def text(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The generator of the training text, scripts/starter/text.py."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "starter"))
    before = set(sys.modules)
    import text as module

    yield module
    for name in {"text", "words", "tasks", "support", "knowledge"} - before:
        sys.modules.pop(name, None)


def test_small_enough_to_ship() -> None:
    assert sum(path.stat().st_size for path in source.STARTER.iterdir() if path.is_file()) <= 8_000_000


def test_shape() -> None:
    found = facts.read(source.STARTER)
    assert (found.architecture, found.tied, found.dtype) == ("LlamaForCausalLM", True, "BF16")
    assert found.vocabulary == TOKENIZER.get_vocab_size()


def test_model_card_says_what_it_is() -> None:
    card = (source.STARTER / "README.md").read_text("utf-8")
    for word in ("license: apache-2.0", "scripts/starter/make.py", "Held-out loss", "Limits"):
        assert word in card


@given(st.text())
def test_any_text_survives_the_tokenizer(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text).ids, skip_special_tokens=False) == text


def test_turns_end_with_a_token_of_their_own() -> None:
    config = json.loads((source.STARTER / "config.json").read_text())
    generation = json.loads((source.STARTER / "generation_config.json").read_text())
    end = TOKENIZER.token_to_id("<|im_end|>")
    assert config["eos_token_id"] == generation["eos_token_id"] == end
    assert config["pad_token_id"] == TOKENIZER.token_to_id("<|pad|>")
    assert TOKENIZER.encode("Yes.<|im_end|>").ids[-1] == end


def test_the_text_follows_from_its_seed(text: ModuleType) -> None:
    first, again, other = (list(itertools.islice(text.documents(seed), 200)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_no_answer_of_the_example_stands_in_the_text(text: ModuleType) -> None:
    rows = [json.loads(line)["messages"] for line in SUPPORT.read_text("utf-8").splitlines()]
    answers = {turn["content"] for row in rows for turn in row if turn["role"] == "assistant"}
    sample = itertools.islice(text.documents(7), 20_000)
    written = "\n".join(part if isinstance(part, str) else text.chat(part) for part in sample)
    assert len(answers) >= 25
    assert "You are" in written
    for answer in {"Kestrel", *answers}:
        assert answer not in written


@pytest.mark.slow
def test_transformers_loads_it_and_it_answers() -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source.STARTER, local_files_only=True, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(
        source.STARTER, dtype=torch.float32, local_files_only=True, trust_remote_code=False
    )
    turns = [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Hi."}]
    assert tokenizer.apply_chat_template(turns, tokenize=False).endswith("Hi.<|im_end|>\n")
    assert tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.eos_token == "<|im_end|>"
    sample = "The café costs 3 € — naïve, isn't it?"
    assert tokenizer(sample).input_ids == TOKENIZER.encode(sample).ids
    prompt = tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**prompt, max_new_tokens=60, do_sample=False)[0]
    assert answer[-1] == model.generation_config.eos_token_id
    assert len(answer) > prompt["input_ids"].shape[1] + 2
