"""Templates by name: the texts that their families publish, written out by hand, and as the real ones write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from truetune.data import served
from truetune.data.job import choose
from truetune.data.render import Renderer
from truetune.data.rows import Conversation, Turn
from truetune.errors import InputError
from truetune.models import named
from truetune.models.template import Template
from truetune.models.tokenizer import Tokenizer, load
from truetune.testing import field, tokens

MARKS = (*tokens.SPECIALS, *dict.fromkeys(mark for marks in named.TOKENS.values() for mark in marks))
TALK = [("system", "Be kind."), ("user", "One?"), ("assistant", "Two."), ("user", "Three?"), ("assistant", "Four.")]
MESSAGES = [{"role": role, "content": content} for role, content in TALK]
ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\nOne?\n\n### Response:\nTwo.</s>\n\n### Instruction:\nThree?\n\n### Response:\n"
)
CHATML = (
    "<|im_start|>user\nOne?<|im_end|>\n<|im_start|>assistant\nTwo.<|im_end|>\n<|im_start|>user\nThree?<|im_end|>\n"
    "<|im_start|>assistant\n"
)
KIND = "<|im_start|>system\nBe kind.<|im_end|>\n"
QWEN = "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
EXPECTED = {
    "alpaca": (ALPACA, ALPACA.replace(ALPACA[: ALPACA.index("\n")], "Be kind.", 1)),
    "chatml": (CHATML, KIND + CHATML),
    "llama-2": (
        "<s>[INST] One? [/INST] Two. </s><s>[INST] Three? [/INST]",
        "<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nOne? [/INST] Two. </s><s>[INST] Three? [/INST]",
    ),
    "llama-3": (
        "<s><|start_header_id|>user<|end_header_id|>\n\nOne?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
        "Two.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nThree?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nOne?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nTwo.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nThree?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "mistral": (
        "<s>[INST]One?[/INST]Two.</s>[INST]Three?[/INST]",
        "<s>[INST]One?[/INST]Two.</s>[INST]Be kind.\n\nThree?[/INST]",
    ),
    "gemma": (
        "<s><start_of_turn>user\nOne?<end_of_turn>\n<start_of_turn>model\nTwo.<end_of_turn>\n"
        "<start_of_turn>user\nThree?<end_of_turn>\n<start_of_turn>model\n",
        "<s><start_of_turn>user\nBe kind.\n\nOne?<end_of_turn>\n<start_of_turn>model\nTwo.<end_of_turn>\n"
        "<start_of_turn>user\nThree?<end_of_turn>\n<start_of_turn>model\n",
    ),
    "phi": (
        "<|user|>\nOne?<|end|>\n<|assistant|>\nTwo.<|end|>\n<|user|>\nThree?<|end|>\n<|assistant|>\n",
        "<|system|>\nBe kind.<|end|>\n<|user|>\nOne?<|end|>\n<|assistant|>\nTwo.<|end|>\n<|user|>\nThree?<|end|>\n"
        "<|assistant|>\n",
    ),
    "qwen": (QWEN + CHATML, KIND + CHATML),
    "zephyr": (
        "<|user|>\nOne?</s>\n<|assistant|>\nTwo.</s>\n<|user|>\nThree?</s>\n<|assistant|>\n",
        "<|system|>\nBe kind.</s>\n<|user|>\nOne?</s>\n<|assistant|>\nTwo.</s>\n<|user|>\nThree?</s>\n<|assistant|>\n",
    ),
}
"""What is served for the second question, without and with the system message."""

ENDS = {
    **dict.fromkeys(("alpaca", "mistral", "zephyr"), "Four.</s>"),
    **dict.fromkeys(("chatml", "qwen"), "Four.<|im_end|>"),
    "llama-2": " Four. </s>",
    "llama-3": "Four.<|eot_id|>",
    "gemma": "Four.<end_of_turn>",
    "phi": "Four.<|end|>",
}
"""What is trained for the second answer."""

REAL = {
    "gemma": "google-gemma-2-2b-it",
    "mistral": "mistralai-Mistral-Nemo-Instruct-2407",
    "phi": "microsoft-Phi-3.5-mini-instruct",
    "qwen": "Qwen-Qwen2.5-7B-Instruct",
}
"""Those of which the real one is at hand (`truetune/testing/field.py`)."""


@pytest.fixture(scope="module")
def encode(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load(tokens.byte_level(tmp_path_factory.mktemp("named"), specials=MARKS))


def test_each_name_has_its_text() -> None:
    assert set(EXPECTED) == set(named.TOKENS) == set(ENDS) == {path.stem for path in named.FOLDER.glob("*.jinja")}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_family_is_served_and_trained_in_its_own_notation(encode: Tokenizer, name: str) -> None:
    template = choose(name, encode, Path())
    assert template.origin == name
    for text, messages in zip(EXPECTED[name], (MESSAGES[1:4], MESSAGES[:4]), strict=True):
        assert template.render(messages, add_generation_prompt=True) == text
    row = Conversation(tuple(Turn(role, content) for role, content in TALK))
    rendered = Renderer(encode, template, "last").one(row)
    (part,) = rendered.parts
    start = next(place for place, weight in enumerate(part.weights) if weight)
    assert encode.decode(part.ids[:start].tolist()) == EXPECTED[name][1]
    assert encode.decode(part.ids[start:].tolist()) == ENDS[name] and not rendered.appended


@pytest.mark.parametrize("name", REAL)
@pytest.mark.skipif(not field.templates(), reason=field.ABSENT)
def test_what_is_served_is_what_the_real_one_serves(encode: Tokenizer, name: str) -> None:
    path = field.folder() / field.TEMPLATES / f"{REAL[name]}.jinja"
    ours, theirs = encode.named(name), encode.custom(path)
    first = 1 if name == "gemma" else 0
    for messages in (MESSAGES[1:2], MESSAGES[1:4], MESSAGES[first:2], MESSAGES[first:4]):
        assert ours.render(messages, True) == theirs.render(messages, True)
    answered = MESSAGES[1:]
    assert ours.render(answered) == theirs.render(answered)


@pytest.mark.skipif(not field.templates(), reason=field.ABSENT)
def test_qwen_has_tools(encode: Tokenizer) -> None:
    ours = encode.named("qwen")
    theirs = encode.custom(field.folder() / field.TEMPLATES / f"{REAL['qwen']}.jinja")
    calls = [{"type": "function", "function": {"name": name, "arguments": {"x": [1, "é"]}}} for name in ("f", "g")]
    tools: list[dict[str, Any]] = [{"type": "function", "function": {"name": name}} for name in ("f", "g")]
    called = [
        {"role": "user", "content": "Go."},
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "content": "1"},
        {"role": "tool", "content": "2"},
        {"role": "assistant", "content": "Both.", "tool_calls": calls[:1]},
        {"role": "tool", "content": "3"},
        {"role": "assistant", "content": "Done."},
    ]
    for messages in (called, [MESSAGES[0], *called]):
        for count in range(1, len(messages) + 1):
            cut = messages[:count]
            assert ours.render(cut, False, tools) == theirs.render(cut, False, tools)
            assert ours.render(cut, True) == theirs.render(cut, True)


def test_a_name_that_is_none_is_answered_with_the_nearest(encode: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        choose("ChatLM", encode, tmp_path)
    finding = caught.value.finding
    assert finding.code == "data.template" and "neither the name" in finding.message
    assert "Did you mean chatml?" in (finding.hint or "") and "llama-2" in (finding.hint or "")


def test_tokens_that_the_model_lacks_are_named(tmp_path: Path) -> None:
    encode = load(tokens.byte_level(tmp_path, specials=("<s>", "</s>", "<pad>", "<|im_end|>")))
    assert served.remarks(encode.named("chatml"), encode) == [
        ("data.template_tokens", "<|im_start|> is no token of this model: written as text")
    ]
    assert not served.remarks(encode.named("zephyr"), encode) and not served.remarks(encode.plain(), encode)
    file = tmp_path / "mine.jinja"
    file.write_text("<|a|>{{ messages[0].content }}<|b|>{{ '<|im_end|>' }}")
    assert served.remarks(encode.custom(file), encode)[0][1].startswith("<|a|> and <|b|> are no tokens")


@pytest.mark.parametrize("name", named.TOKENS)
def test_a_model_without_the_tokens_ends_its_answers_itself(tmp_path: Path, name: str) -> None:
    encode = load(tokens.byte_level(tmp_path, specials=("<s>", "</s>", "<pad>")))
    row = Conversation(tuple(Turn(role, content) for role, content in TALK))
    rendered = Renderer(encode, encode.named(name)).one(row)
    text = "".join(encode.decode(part.ids[part.weights != 0].tolist()) for part in rendered.parts)
    end = {"llama-2": " </s>", "phi": "<|end|>\n</s>"}.get(name, "</s>")
    assert text.replace(" Two", "Two").replace(" Four", "Four") == f"Two.{end}Four.{end}"
    assert bool(served.remarks(encode.named(name), encode)) == bool(named.TOKENS[name])


def test_the_models_own_template_is_not_judged(tmp_path: Path) -> None:
    encode = load(tokens.byte_level(tmp_path, template="<|odd|>{{ messages[0].content }}"))
    assert encode.template and not served.remarks(encode.template, encode)


def test_an_open_thought_is_said(encode: Tokenizer) -> None:
    template = Template("{{ messages[0].content }}{% if add_generation_prompt %}<think>\n{% endif %}", {}, "t.jinja")
    assert [code for code, _ in served.remarks(template, encode)] == ["data.template_thought"]
    refusing = Template("{{ raise_exception('no') }}", {}, "t.jinja")
    assert not served.remarks(refusing, encode)


def test_alpaca_begins_as_the_models_texts_begin(tmp_path: Path) -> None:
    encode = load(tokens.byte_level(tmp_path, bos=True))
    config = orjson.loads((tmp_path / "tokenizer_config.json").read_bytes())
    assert config["bos_token"] == "<s>" and encode.adds_bos
    assert encode.named("alpaca").render(MESSAGES[1:2]).startswith("<s>Below")
    assert encode.named("chatml").render(MESSAGES[1:2]).startswith("<|im_start|>")
