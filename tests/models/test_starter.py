"""The model that ships with TrueTune: small, loadable without the network, made from text of our own."""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from truetune import demo
from truetune.models import facts, source

ROOT = Path(__file__).parents[2]
SUPPORT = ROOT / "examples" / "support" / "support.jsonl"
SCRIPTS = ROOT / "scripts" / "starter"
TOKENIZER = tokenizers.Tokenizer.from_file(str(source.STARTER / "tokenizer.json"))


@pytest.fixture
def text(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The generator of the training text, scripts/starter/text.py."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    before = set(sys.modules)
    import text as module

    yield module
    for name in {path.stem for path in SCRIPTS.glob("*.py")} - before:
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
    first, again, other = (list(itertools.islice(text.documents(seed), 80)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def answers() -> set[str]:
    """What the rows of the demo answer."""
    rows = [json.loads(line)["messages"] for line in SUPPORT.read_text("utf-8").splitlines()]
    return {turn["content"] for row in rows for turn in row if turn["role"] == "assistant"}


def plain(written: str) -> str:
    return " ".join(re.findall(r"[\w']+", written.casefold()))


def look_through(text: ModuleType, seed: int, count: int) -> None:
    """Read so many documents of the training text; none of them gives the demo or its examination away."""
    import clean

    taught, questions = answers(), {plain(paraphrase.question) for paraphrase in demo.kept_out()}
    for part in itertools.islice(text.documents(seed), count):
        for role, said in [("text", part)] if isinstance(part, str) else part:
            assert "kestrel" not in said.casefold(), said
            assert not any(answer in said for answer in taught), said
            assert not clean.tells(said), said
            assert role != "user" or plain(said) not in questions, said


def test_neither_the_demo_nor_its_examination_stands_in_the_text(text: ModuleType) -> None:
    assert len(answers()) >= 18
    look_through(text, seed=9, count=300)


def test_neither_stands_in_the_lists_and_patterns() -> None:
    taught, asked = answers(), demo.kept_out()
    questions = {plain(paraphrase.question) for paraphrase in asked}
    for path in [*SCRIPTS.glob("*.txt"), *SCRIPTS.glob("*.py")]:
        written = path.read_text("utf-8")
        assert not any(answer in written for answer in taught), path
        assert not any(question in plain(written) for question in questions), path
        for line in written.splitlines():
            assert not any(demo.states(line, paraphrase.must) for paraphrase in asked), (path, line)


def test_what_comes_near_to_the_examination_is_seen(text: ModuleType) -> None:
    import clean

    paraphrase = demo.kept_out()[0]
    assert clean.near(f"Hello, {paraphrase.question}")
    for told in demo.kept_out():
        said = " and\n ".join(told.must).upper()
        assert demo.states(said, told.must) and clean.tells(said)
        assert not demo.states(f"{said}5", told.must)
    assert not clean.clean([("user", paraphrase.question)])
    assert clean.clean([("user", "Where do you come from?"), ("assistant", "From a small town.")])


@pytest.mark.slow
def test_neither_stands_in_all_that_was_trained(text: ModuleType) -> None:
    """As many documents of the same seeded streams as the model card says of each stage (the patterns grew between
    the stages: what today's make of the first stage's seed is looked through, its own text was when it was trained)."""
    card = (source.STARTER / "README.md").read_text("utf-8")
    stages = re.findall(r"--seed (\d+) .* ([\d,]+) conversations", card)
    assert len(stages) == card.count("make.py --minutes") > 0
    for seed, count in stages:
        look_through(text, seed=int(seed) + 2, count=int(count.replace(",", "")))


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
