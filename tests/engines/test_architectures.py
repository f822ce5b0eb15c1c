"""Every row of the table in docs/guide/your-model.md: trained, saved, read again by us and by PEFT, merged."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from labelled import CLASSES, ONE
from labelled import rows as labelled
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from truetune.data.example import Example
from truetune.engines.base import EngineSpec
from truetune.engines.torch import merge, tiny, whole
from truetune.engines.torch.engine import TorchEngine
from truetune.models import counting, facts, memory
from truetune.testing import examples
from truetune.testing.contract import LORA, LR

DOCS = Path(__file__).parents[2] / "docs" / "guide" / "your-model.md"
WRITERS = (
    "llama", "mistral", "mistral-window", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "phi4", "gpt2", "gptj",
    "gpt_neox", "falcon", "falcon-new", "mixtral", "qwen2_moe", "qwen3_moe",
)  # fmt: skip
READERS = ("bert", "roberta", "deberta-v2", "modernbert")
MIXTURES = ("mixtral", "qwen2_moe", "qwen3_moe")
IDS = np.random.default_rng(3).integers(5, tiny.VOCAB, 20).astype(np.int32)


def opened(folder, name, **changes):
    objective = {"objective": ONE} if name in READERS else {}
    return TorchEngine(replace(EngineSpec(model=folder, method=LORA, token_budget=64, **objective), **changes))


def train(engine, name, steps=3):
    rows = labelled(8) if name in READERS else examples()
    return [engine.step(engine.prepare(rows), LR).loss for _ in range(steps)]


def outputs(engine, name):
    """Our logits of one text, [T, V], or its scores [1, classes]."""
    if name in READERS:
        return torch.from_numpy(engine.scores(engine.prepare([Example(IDS, np.zeros(20, np.float32), 0, label=(0,))])))
    inputs = {"position_ids": torch.arange(20)[None], "use_cache": False}
    if engine.forward.packs:
        inputs["segments"] = ((0, 20),)
    with torch.no_grad():
        return engine.model.eval()(torch.from_numpy(IDS).long()[None], **inputs).logits[0]


def theirs(model):
    """transformers' logits of the same text."""
    kinds = {"token_type_ids": torch.zeros(1, 20).long()} if getattr(model.config, "type_vocab_size", 0) > 1 else {}
    with torch.no_grad():
        found = model.eval()(input_ids=torch.from_numpy(IDS).long()[None], **kinds).logits
    return found if found.ndim == 2 else found[0]


def base(folder, name):
    kind, more = AutoModelForCausalLM, {}
    if name in READERS:
        kind, more = AutoModelForSequenceClassification, {"num_labels": len(CLASSES)}
    return kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", **more)


def apart(one, other):
    return float((one - other).abs().max())


@pytest.mark.parametrize("name", [*WRITERS, *READERS])
def test_trained_saved_read_again_and_merged(models, tmp_path, name):
    peft = pytest.importorskip("peft")
    engine = opened(models(name), name)
    before = outputs(engine, name)
    losses = train(engine, name)
    assert losses[2] < losses[0] and engine.changed()[0] == engine.changed()[1] > 0
    ours = outputs(engine, name)
    assert apart(ours, before) > 1e-3
    (tmp_path / "adapter").mkdir()
    engine.export(tmp_path / "adapter")
    assert apart(outputs(opened(models(name), name, adapter=tmp_path / "adapter"), name), ours) == 0
    wrapped = peft.PeftModel.from_pretrained(base(models(name), name), tmp_path / "adapter")
    assert apart(theirs(wrapped), ours) <= 1e-5
    merge.write(merge.merged(replace(engine.spec, adapter=tmp_path / "adapter")), tmp_path / "merged")
    assert apart(theirs(base(tmp_path / "merged", name)), ours) <= 1e-5


@pytest.mark.parametrize("name", MIXTURES)
def test_of_a_mixture_attention_alone_is_adapted(models, name):
    """Router, experts and what stands beside them stay as they are, unless one is asked for by name."""
    engine = opened(models(name), name)
    still = {key: value.clone() for key, value in engine.model.named_parameters() if ".mlp." in key}
    train(engine, name)
    assert engine.describe()["target_modules"] == ["k_proj", "o_proj", "q_proj", "v_proj"]
    assert still and not any(".lora_" in key for key in still)
    assert all(torch.equal(engine.model.get_parameter(key), value) for key, value in still.items())


def test_a_shared_expert_can_be_asked_for(models):
    chosen = replace(LORA, target_modules=("shared_expert.up_proj",))
    engine = opened(models("qwen2_moe"), "qwen2_moe", method=chosen)
    assert engine.adapted.layers == [f"model.layers.{layer}.mlp.shared_expert.up_proj" for layer in range(2)]
    every = opened(models("qwen2_moe"), "qwen2_moe", method=replace(LORA, target_modules="all-linear"))
    assert "shared_expert_gate" in every.describe()["target_modules"]


@pytest.mark.parametrize("name", [*WRITERS, *READERS])
def test_what_is_planned_is_what_is_trained(models, name):
    """Facts from the folder, parameters from config.json alone, and the estimate's trained parameters."""
    engine = opened(models(name), name)
    known = facts.read(models(name))
    if name in WRITERS:
        assert known.parameters == counting.sketch(models(name)).parameters
        share = memory.trained(known, memory.Setup(r=LORA.r)) / engine.describe()["trained_parameters"]
        fused = {"qkv_proj", "query_key_value", "c_attn"} & set(engine.describe()["target_modules"])
        assert 1 < share < 1.5 if fused else share == 1  # one map for three has fewer numbers
    assert known.passed == {"mixtral": 2 * 64, "qwen2_moe": 2 * 16 + 24, "qwen3_moe": 2 * 16}.get(name, 0)
    setup = memory.Setup(r=LORA.r, packed=engine.forward.packs, scores=name in READERS)
    assert memory.estimate(known, setup, 64).total > 0


def test_the_table_of_the_docs(models):
    """Its rows are the architectures of this file, and what it says of each is so."""
    table = {}
    for line in DOCS.read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]
        if len(cells) == 5 and (found := re.search(r" `([a-z0-9_-]+)`$", cells[0])):
            table[found[1]] = cells[1:]
    kinds = {(tiny.ARCHITECTURES | tiny.ENCODERS)[name][0] for name in (*WRITERS, *READERS)}
    assert table.keys() == kinds
    for name in (*WRITERS, *READERS):
        engine = opened(models(name), name)
        batches, adapted, head, _ = table[(tiny.ARCHITECTURES | tiny.ENCODERS)[name][0]]
        assert batches == engine.describe()["micro_batches"]
        assert set(re.findall(r"`(\w+)`", adapted)) == set(engine.describe()["target_modules"])
        if name in READERS:
            assert head == "classes" and engine.describe()["modules_to_save"]
        elif not head.startswith("as"):
            assert head.startswith("tied") == whole.tied(engine.model)
