"""The chat templates of real models: rendered as `transformers` renders them, and trained with proven masks.

Each template is given a small tokenizer that has its control tokens. The tables say what comes of each of the 70: they
are exact, so that what gets better shows as well as what gets worse. The templates are not part of this repository
(`truetune/testing/field.py`).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from truetune.data import calls
from truetune.data.render import Rendered, Renderer
from truetune.data.rows import Conversation, RowError, Turn
from truetune.models.tokenizer import Tokenizer, load
from truetune.testing import field, gguf, tokens

ANSWERS = {
    "{}<|im_end|>": "Bielik-11B-v3.0-Instruct HuggingFaceTB-SmolLM3-3B Kimi-K2-Instruct LFM2-8B-A1B LFM2.5-8B-A1B "
    "LFM2.5-Instruct MiMo-VL Qwen-QwQ-32B Qwen-Qwen2.5-7B-Instruct Qwen3-Coder moonshotai-Kimi-K2 openbmb-MiniCPM5-1B",
    "<think>\n\n</think>\n\n{}<|im_end|>": "Qwen-Qwen3-0.6B",
    "\n</think>\n\n{}<|im_end|>": "Qwen3.5-4B",
    "\n</think>\n{}<|im_end|>": "StepFun3.5-Flash",
    "<think></think>{}<|im_end|>": "Kimi-K2-Thinking",
    "</think>{}<|im_end|>": "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
    "<|close|>think<|sep|><|open|>response<|sep|>{}<|close|>response<|sep|><|close|>message<|sep|><|end_of_msg|>": (
        "Kimi-K3"
    ),
    "{}\n<SPECIAL_12>": "NVIDIA-Nemotron-Nano-v2",
    "{}<|eot_id|>": "meetkai-functionary-medium-v3.1 meta-llama-Llama-3.1-8B-Instruct "
    "meta-llama-Llama-3.2-3B-Instruct meta-llama-Llama-3.3-70B-Instruct",
    "all\n{}<|eot_id|>": "meetkai-functionary-medium-v3.2",
    "{}</s>": "Mistral-Small-3.2-24B-Instruct-2506 mistralai-Ministral-3-14B-Reasoning-2512 "
    "mistralai-Mistral-Nemo-Instruct-2407 unsloth-mistral-Devstral-Small-2507",
    " {}</s>": "llama-cpp-rwkv-world",
    "{}<｜end▁of▁sentence｜>": "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B deepseek-ai-DeepSeek-V3.1 "
    "deepseek-ai-DeepSeek-V3.2 deepseek-ai-DeepSeek-V4 deepseek-ai-DeepSeek-V4-Flash-0731",
    "\n</think>\n\n{}<｜end▁of▁sentence｜>": "deepseek-ai-DeepSeek-R1-Distill-Llama-8B llama-cpp-deepseek-r1",
    "</think>{}<｜end▁of▁sentence｜>": "Spark2.5",
    "{}<end_of_turn>": "google-gemma-2-2b-it",
    "{}<turn|>": "google-gemma-4-31B-it google-gemma-4-31B-it-interleaved",
    "{}<|end_of_text|>": "ibm-granite-granite-3.3-2B-Instruct ibm-granite-granite-4.0 ibm-granite-granite-4.1",
    "{}<|end|>": "microsoft-Phi-3.5-mini-instruct",
    "{}\n<|end|>": "unsloth-Apriel-1.5",
    "\n[BEGIN FINAL RESPONSE]\n\n{}<|end|>": "Apriel-1.6-15b-Thinker-fixed",
    "<|content|>{}<|end|>": "upstage-Solar-Open-100B",
    "<|channel|>final<|message|>{}<|return|>": "openai-gpt-oss-120b",
    " to=user<|message|>{}<|eot|>": "muse-glimmer",
    "{}<|assistant_end|>": "Apertus-8B-Instruct",
    "{}<seed:eos>": "ByteDance-Seed-OSS",
    "<|END_THINKING|><|START_TEXT|>{}<|END_TEXT|><|END_OF_TURN_TOKEN|>": "Cohere2MoE",
    "<|START_RESPONSE|>{}<|END_RESPONSE|><|END_OF_TURN_TOKEN|>": "CohereForAI-c4ai-command-r7b-12-2024-tool_use",
    "\n<think></think>\n{}<|endoftext|>": "GLM-4.6",
    "</think>{}<|endoftext|>": "GLM-4.7-Flash",
    "{}<|message_sep|>": "GigaChat3-10B-A1.8B GigaChat3.1-10B-A1.8B",
    "{}<end_of_sentence>": "MiniMax-M1",
    "\n</think>\n\n{}[e~[": "MiniMax-M2",
    "</mm:think>{}[e~[": "MiniMax-M3",
    " {}\n\n<sep>": "Reka-Edge",
    "</think>{}<|role_end|>": "inclusionai-ling-3.0-flash",
    "</think>{}</assistant>": "poolside-Laguna-S-2.1",
    "\n{}\n</assistant>": "poolside-Laguna-XS-2.1 poolside-Laguna-XS.2",
    "{}<｜hy_eos:opensource｜>": "tencent-Hy3",
}
"""What a model must write for an answer, by template. The token at its end is the one that ends texts."""

TOOLS_ONLY = {
    "CohereForAI-c4ai-command-r-plus-tool_use": "{}<|END_OF_TURN_TOKEN|>",
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": "{}<|im_end|>",
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": "{}<|im_end|>",
}
"""Templates for conversations that have tools."""

APPENDED = {
    "Apertus-8B-Instruct",
    "Apriel-1.6-15b-Thinker-fixed",
    "GLM-4.6",
    "GLM-4.7-Flash",
    "llama-cpp-rwkv-world",
    "tencent-Hy3",
}
"""Templates that do not write the token that ends an answer, but after the next question."""

CALL_ENDS = {
    "google-gemma-4-31B-it": "<|tool_response>",
    "meetkai-functionary-medium-v3.1": "<|eom_id|>",
    "openai-gpt-oss-120b": "<|call|>",
    "upstage-Solar-Open-100B": "<|calls|>",
    "Apertus-8B-Instruct": "<|tools_suffix|>",
}
"""Where a call ends otherwise than an answer."""

NO_CALLS = "data.template_drops_text", "it writes no calls"
REFUSED = {
    "Apertus-8B-Instruct": {"tools": ("data.template_prefix", "an answer to a tool has no header in the history")},
    **{name: {"single multi system": ("data.template", "it wants tools")} for name in TOOLS_ONLY},
    "HuggingFaceTB-SmolLM3-3B": {"call tools": NO_CALLS},
    "Kimi-K2-Instruct": {"call tools": ("data.template", "it changes a list, which the sandbox forbids")},
    "Kimi-K2-Thinking": {"call tools": ("data.template", "it changes a list, which the sandbox forbids")},
    "LFM2-8B-A1B": {"call tools": NO_CALLS},
    "LFM2.5-Instruct": {"call tools": NO_CALLS},
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": {"call tools": ("data.template_prefix", "it writes no calls")},
    "fireworks-ai-llama-3-firefunction-v2": {
        "single multi system call tools": ("data.template", "it wants a variable `functions`")
    },
    "google-gemma-2-2b-it": {
        "system": ("data.template", "it refuses a system message"),
        "call tools": NO_CALLS,
    },
    "ibm-granite-granite-3.3-2B-Instruct": {"call tools": NO_CALLS},
    "llama-cpp-deepseek-r1": {"call tools": ("data.template", "it writes a generator as JSON")},
    "llama-cpp-rwkv-world": {"call tools": NO_CALLS},
    "meetkai-functionary-medium-v3.2": {"call tools": ("data.template", "it wants arguments as JSON text")},
    "microsoft-Phi-3.5-mini-instruct": {"call tools": NO_CALLS},
}
"""What does not train: kinds of conversations, the code, and the reason."""

PATTERNS = {**TOOLS_ONLY, **{name: text for text, names in ANSWERS.items() for name in names.split()}}
OWN = {
    "Qwen-Qwen3-0.6B": "qwen2",
    "meta-llama-Llama-3.1-8B-Instruct": "llama-bpe",
    "microsoft-Phi-3.5-mini-instruct": "phi-3",
    "google-gemma-4-31B-it": "gemma-4",
}
"""The vocabularies of some of them."""
QUICK = {"Qwen-Qwen3-0.6B", "meta-llama-Llama-3.1-8B-Instruct", "mistralai-Mistral-Nemo-Instruct-2407"} | {
    *("google-gemma-4-31B-it", "deepseek-ai-DeepSeek-R1-Distill-Llama-8B", "openai-gpt-oss-120b", "Kimi-K3")
}
NAMES = [path.stem for path in field.templates()]
EACH = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
pytestmark = pytest.mark.skipif(not NAMES, reason=field.ABSENT)

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "Its name"}},
    "required": ["city"],
}
TOOL = {"type": "function", "function": {"name": "weather", "description": "The weather.", "parameters": WEATHER}}
CALL = {
    "id": "call12345",
    "type": "function",
    "function": {"name": "weather", "arguments": {"city": 'Sankt "Pölten"', "days": 3}},
}


def talk(*texts: str, system: str = "") -> Conversation:
    """Questions and answers, in turns."""
    turns = [Turn("assistant" if place % 2 else "user", text) for place, text in enumerate(texts)]
    return Conversation(((Turn("system", system),) if system else ()) + tuple(turns))


ASKED, CALLED = Turn("user", "How is the weather?"), Turn("assistant", "", calls=(CALL,))
ANSWERED = Turn("tool", '{"sky": "clear"}', name="weather", call_id="call12345")
TALKS = {
    "single": talk("What is 2 + 2?", "It is 4."),
    "multi": talk("What is 2 + 2?", "It is 4.", "And 3 + 3?", "That makes 6, of course."),
    "system": talk("What is 2 + 2?", "It is 4.", "And 3 + 3?", "That makes 6.", system="You are terse."),
    "call": Conversation((ASKED, CALLED), (TOOL,)),
    "tools": Conversation((ASKED, CALLED, ANSWERED, Turn("assistant", "It is clear.")), (TOOL,)),
}


@cache
def tokenizer(name: str) -> Tokenizer:
    with TemporaryDirectory() as folder:
        return field.build(field.folder() / field.TEMPLATES / f"{name}.jinja", Path(folder), end(name))


def end(name: str) -> str:
    """The last token of what a template makes of an answer."""
    return str(field.SPECIAL.findall(PATTERNS.get(name, "</s>"))[-1])


def trained(encode: Tokenizer, rendered: Rendered) -> list[tuple[list[int], str]]:
    """For each stretch of trained tokens, the ids before it and its text."""
    found = []
    for part in rendered.parts:
        edges = np.flatnonzero(np.diff(np.concatenate([[0], part.weights != 0, [0]])))
        ids = part.ids.tolist()
        found += [(ids[:start], encode.decode(ids[start:stop])) for start, stop in edges.reshape(-1, 2)]
    return found


def test_each_template_is_in_a_table() -> None:
    refused = {name for name, kinds in REFUSED.items() if sum(len(each.split()) for each in kinds) == len(TALKS)}
    assert refused == {"fireworks-ai-llama-3-firefunction-v2"}
    assert set(NAMES) == set(PATTERNS) | refused and len(NAMES) == 70
    assert len(set(NAMES) - refused) >= 60


@pytest.mark.parametrize("kind", TALKS)
@pytest.mark.parametrize("name", EACH)
def test_what_is_trained_is_the_answer_as_served(name: str, kind: str) -> None:
    encode, row = tokenizer(name), TALKS[kind]
    template = encode.template
    assert template is not None
    codes = {each: code for kinds, (code, _) in REFUSED.get(name, {}).items() for each in kinds.split()}
    if kind in codes:
        with pytest.raises(RowError) as caught:
            Renderer(encode, template).one(row)
        assert caught.value.code == codes[kind]
        return
    rendered = Renderer(encode, template).one(row)
    places = [place for place, turn in enumerate(row.turns) if turn.role == "assistant"]
    for place, (before, text) in zip(places, trained(encode, rendered), strict=True):
        turn = row.turns[place]
        assert before == encode.encode(template.render(row.messages()[:place], True, row.tools))
        if turn.calls:
            assert not calls.missing(text, turn) and text.endswith(CALL_ENDS.get(name, end(name)))
        else:
            assert text == PATTERNS[name].format(turn.content)
    assert all(part.closed for part in rendered.parts)
    assert kind in ("call", "tools") or rendered.appended == (name in APPENDED)


SNIPPETS = [
    "assistant",
    "final",
    "<",
    " ",
    "\n",
    "\n\n",
    "###",
    "é",
    "日本",
    "🙂",
    "\t",
    "[/INST",
    "1 2",
    "{{ x }}",
    "%}",
]
contents = (
    st.lists(st.one_of(st.sampled_from(SNIPPETS), st.text(max_size=6)), min_size=1, max_size=5)
    .map(lambda pieces: "".join(pieces).replace("\0", "").strip())
    .filter(bool)
)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name in PATTERNS])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(texts=st.lists(contents, min_size=2, max_size=5))
def test_whatever_is_said(name: str, texts: list[str]) -> None:
    encode = tokenizer(name)
    row = talk(*texts[: len(texts) // 2 * 2])
    if name in TOOLS_ONLY:
        row = Conversation(row.turns, (TOOL,))
    assert encode.template is not None
    try:
        rendered = Renderer(encode, encode.template).one(row)
    except RowError as error:
        assert error.code == "data.control_token" and any(encode.special.search(turn.content) for turn in row.turns)
        return
    answers = [turn.content for turn in row.turns if turn.role == "assistant"]
    assert [text for _, text in trained(encode, rendered)] == [PATTERNS[name].format(text) for text in answers]


@pytest.mark.slow
@pytest.mark.parametrize("name", OWN)
def test_with_the_models_own_vocabulary(name: str, tmp_path: Path) -> None:
    """Words join across what the small tokenizers keep apart: the ids before an answer are still those served."""
    source = (field.folder() / field.TEMPLATES / f"{name}.jinja").read_text("utf-8")
    values = gguf.read(field.folder() / field.VOCABULARIES / f"{OWN[name]}.gguf")
    tokens.save(gguf.tokenizer(values), tmp_path, source, {"eos_token": end(name)})
    encode = load(tmp_path)
    assert encode.template
    for row in (TALKS["single"], TALKS["multi"]):
        places = [place for place, turn in enumerate(row.turns) if turn.role == "assistant"]
        found = trained(encode, Renderer(encode, encode.template).one(row))
        for place, (before, text) in zip(places, found, strict=True):
            assert before == encode.encode(encode.template.render(row.messages()[:place], True))
            assert text == PATTERNS[name].format(row.turns[place].content)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_text_is_that_of_transformers(name: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    path = field.folder() / field.TEMPLATES / f"{name}.jinja"
    ours = field.build(path, tmp_path, end(name))
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for row in TALKS.values():
        messages, tools = row.messages(), list(row.tools)
        for count in range(1, len(messages) + 1):
            for prompt in (False, True):
                assert text(ours.template, messages[:count], tools, prompt) == oracle(
                    theirs, messages[:count], tools, prompt
                )


def text(template: Any, messages: list[dict[str, Any]], tools: list[dict[str, Any]], prompt: bool) -> str | None:
    """None where the template refuses."""
    from truetune.models.template import TemplateError

    try:
        return str(template.render(messages, prompt, tools))
    except TemplateError:
        return None


def oracle(theirs: Any, messages: list[dict[str, Any]], tools: list[dict[str, Any]], prompt: bool) -> str | None:
    try:
        return str(
            theirs.apply_chat_template(messages, tools=tools or None, tokenize=False, add_generation_prompt=prompt)
        )
    except Exception:  # whatever a template does
        return None
