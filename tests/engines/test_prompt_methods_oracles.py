"""Prompt methods and IA³ held against PEFT alone, step by step, and against the same tokens written out.

The comparison is itself tested: each way of being subtly wrong must make it fail.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

import peft
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from truetune.data.example import Example
from truetune.engines import prompts
from truetune.engines.base import EngineSpec, Method, Optimizer
from truetune.engines.torch import attention, fronts, tiny
from truetune.engines.torch.engine import TorchEngine

pytestmark = pytest.mark.slow

VIRTUAL, STEPS, BATCH, LR, DECAY = 5, 24, 8, 1e-2, 0.1
EVERY = (*prompts.PROMPTS, "ia3")
HIDDEN = {"prefix": 24, "ptuning": 24}


@pytest.fixture(scope="module")
def rows():
    """Sequences that count up by one, of mixed length: there is something to learn. The first third is a prompt."""
    rng = np.random.default_rng(3)
    made = []
    for row in range(BATCH * 4):
        size = int(rng.integers(6, 40))
        ids = (int(rng.integers(0, 100)) + np.arange(size)).astype(np.int32)
        made.append(Example(ids, (np.arange(size) >= max(1, size // 3)).astype(np.float32), row))
    return made


def step_rows(rows, step):
    start = step * BATCH % len(rows)
    return rows[start : start + BATCH]


def ours(folder, rows, kind, budget=200, sabotage=""):
    """Our losses; `sabotage` makes one classic mistake."""
    method = Method(type=kind, virtual_tokens=VIRTUAL, encoder_hidden=HIDDEN.get(kind))
    spec = EngineSpec(folder, method, Optimizer(weight_decay=DECAY), token_budget=budget)
    engine = TorchEngine(replace(spec, seed=43) if sabotage == "another start" else spec)
    if sabotage == "no weight decay":
        for group in engine.optimizer.param_groups:
            group["weight_decay"] = 0.0
    losses = []
    with wrongly(engine, sabotage):
        for step in range(STEPS):
            examples = step_rows(rows, step)
            if sabotage == "mask off by one":
                examples = [replace(e, weights=np.r_[0, e.weights[:-1]].astype(np.float32)) for e in examples]
            losses.append(engine.step(engine.prepare(examples), LR).loss)
    return losses


@contextmanager
def wrongly(engine, sabotage):
    """Logits of the virtual tokens in place of the text's, or positions that do not count them."""
    whole = engine.adapted.model.forward
    if sabotage == "the front of the logits":
        engine.forward.logits = lambda batch: (
            whole(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)
            .logits[:, : batch.ids.shape[1]].flatten(0, 1).index_select(0, batch.picked).float()
        )  # fmt: skip
    if sabotage == "positions from 0":
        engine.adapted.model.forward = lambda **inputs: whole(
            **inputs, position_ids=torch.arange(inputs["input_ids"].shape[1])[None] - VIRTUAL
        )
    yield


def theirs(folder, rows, kind):
    """A plain loop over PEFT's model: its own labels, its own loss, one padded batch per step."""
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    torch.manual_seed(42)
    model = peft.get_peft_model(base, configuration(kind)).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LR, weight_decay=DECAY)
    if kind != "ia3":
        optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in trained if p.ndim >= 2], "weight_decay": DECAY},
                {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
            ],
            lr=LR,
        )
    losses = []
    for step in range(STEPS):
        loss = model(**padded(step_rows(rows, step))).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def configuration(kind):
    common = {"task_type": "CAUSAL_LM"}
    if kind == "ia3":
        return peft.IA3Config(**common)
    common |= {"num_virtual_tokens": VIRTUAL}
    if kind in ("prefix", "ptuning_v2"):
        return peft.PrefixTuningConfig(
            **common, prefix_projection=kind == "prefix", encoder_hidden_size=HIDDEN["prefix"]
        )
    if kind == "ptuning":
        return peft.PromptEncoderConfig(**common, encoder_hidden_size=HIDDEN["ptuning"])
    return peft.PromptTuningConfig(**common, prompt_tuning_init="SAMPLE_VOCAB")


def padded(examples):
    size = max(example.tokens for example in examples)
    ids = torch.zeros(len(examples), size, dtype=torch.int64)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, example in enumerate(examples):
        here = torch.from_numpy(example.ids.astype(np.int64))
        ids[row, : len(here)], mask[row, : len(here)] = here, 1
        labels[row, : len(here)] = torch.where(torch.from_numpy(example.weights) > 0, here, -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def agree(one, other):
    return len(one) == len(other) and np.allclose(one, other, rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen2", "gemma2"])
def test_losses_equal_peft(models, rows, name, kind):
    """However a step is cut; the loss must fall for this to say anything."""
    folder = models(name, **({"sliding_window": 64} if name == "gemma2" else {}))
    expected = theirs(folder, rows, kind)
    assert STEPS % 4 == 0 and expected[-1] < expected[3] - 1e-3  # of the same rows
    for budget in (60, 10_000):
        losses = ours(folder, rows, kind, budget)
        worst = max(abs(a - b) / b for a, b in zip(losses, expected, strict=True))
        assert agree(losses, expected), f"largest relative difference {worst:.2e}"


MISTAKES = [
    ("prefix", "another start"), ("prefix", "no weight decay"), ("prefix", "mask off by one"),
    ("ptuning", "the front of the logits"), ("prompt", "mask off by one"), ("ptuning_v2", "positions from 0"),
    ("ia3", "no weight decay"), ("ia3", "mask off by one"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "sabotage"), MISTAKES)
def test_the_comparison_notices(models, rows, kind, sabotage):
    folder = models("llama")
    assert not agree(ours(folder, rows, kind, sabotage=sabotage), theirs(folder, rows, kind))


SMALL = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1,
}  # fmt: skip
EXPERTS = {
    "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
}  # fmt: skip
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, "bos_token_id": 1, "eos_token_id": 1}
WHOLE = {key: value for key, value in SMALL.items() if key != "num_key_value_heads"}
OWN = {
    "bloom": WHOLE | {"n_layer": 2, "n_head": 4},
    "codegen": GPT | {"rotary_dim": 4},
    "cohere2": SMALL | {"sliding_window": 16},
    "falcon": WHOLE | {"multi_query": True, "new_decoder_architecture": False},
    "gpt_bigcode": GPT | {"multi_query": True},
    "gpt_neo": WHOLE
    | {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 8},
    "gpt_neox": WHOLE,
    "gptj": GPT | {"rotary_dim": 4},
    "gpt2": GPT,
    "gemma2": SMALL | {"head_dim": 8, "sliding_window": 16, "query_pre_attn_scalar": 8},
    "gemma3_text": SMALL | {"head_dim": 8, "sliding_window": 16, "num_hidden_layers": 6},
    "mistral": SMALL | {"sliding_window": 16},
    "opt": WHOLE | {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "persimmon": WHOLE,
}
HEADS = {"ernie4_5", "gemma", "glm", "glm4", "helium", "qwen3", "qwen3_moe", "seed_oss"}
MANY = {"granitemoe", "mixtral", "olmoe", "phimoe", "qwen2_moe", "qwen3_moe"}


def small(kind):
    """A tiny random model of a type, unlike any start of training."""
    settings = OWN.get(kind, SMALL | ({"head_dim": 8} if kind in HEADS else {}) | (EXPERTS if kind in MANY else {}))
    torch.manual_seed(0)
    found = CONFIG_MAPPING[kind](**settings, vocab_size=tiny.VOCAB)
    model = AutoModelForCausalLM.from_config(found, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.08)
    return model


@pytest.mark.parametrize("kind", sorted(prompts.TESTED))
@pytest.mark.parametrize("method", ["ptuning_v2", "prompt"])
def test_virtual_tokens_are_like_written_ones(kind, method):
    """A prefix of real tokens' keys and values, and embeddings of real words, give the logits of the text behind these
    words, padded or not; so does a cache that begins with them."""
    from truetune.engines.torch.methods import prompt

    model = small(kind)
    words, ids = torch.randint(5, 300, (1, VIRTUAL)), torch.randint(5, 300, (1, 9))
    with torch.no_grad():
        expected = model(torch.cat([words, ids], 1), use_cache=False).logits[:, VIRTUAL:]
        plain = model(ids, use_cache=False).logits
        front = fronts.of_embeddings(model.get_input_embeddings()(words)[0], model)
    spec = EngineSpec(model="", method=Method(type=method, virtual_tokens=VIRTUAL), base="x")
    adapted = prompt.Prompt(model, spec)
    if method == "prompt":
        learned = adapted.model.word_embeddings(words)[0]
    else:
        learned = torch.stack([torch.stack(pair) for pair in front]).permute(3, 0, 1, 2, 4).reshape(VIRTUAL, -1)
    adapted.put({"embedding.weight": learned})
    batch, mask = torch.cat([ids, torch.zeros(1, 3, dtype=torch.int64)], 1), torch.tensor([[1] * 9 + [0] * 3])
    with torch.no_grad():
        inputs = {"input_ids": batch.repeat(2, 1), "attention_mask": mask.repeat(2, 1), "use_cache": False}
        found = adapted.model(**inputs).logits[1:, -12:-3]
        cached = model(ids, past_key_values=fronts.cache(model, adapted.front()), use_cache=True).logits
    assert (found - expected).abs().max() <= 1e-5 < (plain - expected).abs().max()
    assert (cached - expected).abs().max() <= 1e-5
    assert model.config._attn_implementation != attention.NAME


@pytest.mark.parametrize("kind", ["mamba", "jamba", "deepseek_v3", "recurrent_gemma", "mpt"])
def test_others_are_not_in_the_list(kind):
    assert kind in CONFIG_MAPPING and kind not in prompts.TESTED
