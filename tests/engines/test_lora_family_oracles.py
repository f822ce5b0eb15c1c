"""LoRA's family held against PEFT: it reads what we save, we go on from what it saves, and both learn alike.

The comparison of the losses is itself tested: each way of being subtly wrong must make it fail.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from truetune.data.example import Example
from truetune.engines.base import EngineSpec, Method, Optimizer
from truetune.engines.torch import dora, lora, tiny
from truetune.engines.torch.engine import TorchEngine
from truetune.testing import examples

pytestmark = pytest.mark.slow

NEW = (tiny.VOCAB, tiny.VOCAB + 1)
LORA = Method(type="lora", r=4, alpha=8)
METHODS = {
    "lora": (LORA, ()),
    "rslora": (replace(LORA, type="rslora"), ()),
    "dora": (replace(LORA, type="dora"), ()),
    "pissa": (replace(LORA, init="pissa"), ()),
    "olora": (replace(LORA, init="olora"), ()),
    "rslora from pissa": (replace(LORA, type="rslora", init="pissa"), ()),
    "dora from pissa": (replace(LORA, type="dora", init="pissa"), ()),
    "embedding": (replace(LORA, modules_to_save=("EMBEDDING", "NORM")), ()),
    "head": (replace(LORA, modules_to_save=("HEAD",)), ()),
    "new tokens": (LORA, NEW),
    "known tokens": (LORA, (5, 9)),
    "new tokens, all rows": (replace(LORA, modules_to_save=("EMBEDDING", "HEAD")), NEW),
}
NAMES = {
    "gpt2": {"EMBEDDING": "wte", "HEAD": "lm_head", "NORM": "ln_f"},
    None: {"EMBEDDING": "embed_tokens", "HEAD": "lm_head", "NORM": "model.norm"},
}


def settings(case, architecture):
    method, new = METHODS[case]
    names = NAMES.get(architecture, NAMES[None])
    return replace(method, modules_to_save=tuple(names[one] for one in method.modules_to_save)), new


def exported(engine, folder):
    folder.mkdir()
    engine.export(folder)
    return folder


def base(folder, rows=0):
    """transformers' own model; its new rows are anything, as whoever loads the adapter has them."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    if rows > tiny.VOCAB:
        model.resize_token_embeddings(rows, mean_resizing=False)
    return model


def logits(engine, ids):
    inputs = {"position_ids": torch.arange(ids.shape[1])[None], "use_cache": False}
    if engine.forward.packs:
        inputs["segments"] = ((0, ids.shape[1]),)
    with torch.no_grad():
        return engine.model.eval()(ids, **inputs).logits


@pytest.mark.parametrize("case", METHODS)
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen3", "phi3", "gemma2"])
def test_peft_reads_our_adapter(models, tmp_path, architecture, case):
    """Logits of the untouched base with our file by PEFT = ours, to 1e-5; and what PEFT merges is the same again."""
    folder, (method, new) = models(architecture), settings(case, architecture)
    engine = TorchEngine(EngineSpec(model=folder, method=method, new_tokens=new))
    plan = engine.prepare(examples())
    for _ in range(4):
        engine.step(plan, 2e-2)
    ids = torch.randint(0, tiny.VOCAB, (1, 24), generator=torch.Generator().manual_seed(1))
    ids[0, ::5] = max(new, default=3)
    plain = base(folder, max(new, default=0) + 1)
    with torch.no_grad():
        before = plain.eval()(ids).logits
    model = PeftModel.from_pretrained(plain, exported(engine, tmp_path / "adapter")).eval()
    with torch.no_grad():
        theirs, merged = model(ids).logits, model.merge_and_unload()(ids).logits
    ours = logits(engine, ids)
    scale = max(1.0, float(theirs.abs().max()))
    assert (before - theirs).abs().max() > 1e-2
    assert (ours - theirs).abs().max() <= 1e-5 * scale
    assert (ours - merged).abs().max() <= 2e-5 * scale


STARTS = {
    "rslora": ("llama", {"use_rslora": True}, {"type": "rslora"}, ()),
    "dora": ("llama", {"use_dora": True}, {"type": "dora"}, ()),
    "dora of Conv1D": ("gpt2", {"use_dora": True, "fan_in_fan_out": True}, {"type": "dora"}, ()),
    "norms": (
        "llama",
        {"modules_to_save": ["norm"]},
        {"modules_to_save": ("norm", "input_layernorm", "post_attention_layernorm")},
        (),
    ),
    "head and embedding": (
        "llama",
        {"modules_to_save": ["embed_tokens", "lm_head"]},
        {"modules_to_save": ("embed_tokens", "lm_head")},
        (),
    ),
    "a head that PEFT parts from its embedding": (
        "gemma2",
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ("lm_head",)},
        (),
    ),
    "tokens of a tied model": ("gemma2", {"trainable_token_indices": [9, 5]}, {}, (5, 9)),
    "tokens of the embedding only": ("llama", {"trainable_token_indices": [9, 5]}, {}, (9, 5)),
    "tokens of both": ("llama", {"trainable_token_indices": {"embed_tokens": [5], "lm_head": [5]}}, {}, (5,)),
}


@pytest.mark.parametrize("case", STARTS)
def test_we_train_on_from_an_adapter_that_peft_saved(models, tmp_path, case):
    architecture, theirs, ours, new = STARTS[case]
    folder = models(architecture)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", **theirs)
    model = get_peft_model(base(folder), config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape) * 0.05)
    model.save_pretrained(tmp_path / "adapter")
    spec = EngineSpec(model=folder, method=replace(LORA, **ours), new_tokens=new, adapter=tmp_path / "adapter")
    engine = TorchEngine(spec)
    ids = torch.randint(0, tiny.VOCAB, (1, 24), generator=torch.Generator().manual_seed(1))
    ids[0, ::4] = 5
    with torch.no_grad():
        expected = model.eval()(ids).logits
    assert (logits(engine, ids) - expected).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))
    plan = engine.prepare(examples())
    before = engine.loss(plan).loss
    for _ in range(4):
        engine.step(plan, 1e-2)
    assert engine.loss(plan).loss < before
    again = TorchEngine(replace(spec, adapter=exported(engine, tmp_path / "more")))
    assert again.loss(plan).loss == engine.loss(plan).loss


STEPS, LR, DECAY = 24, 1e-2, 0.1
SLOWER = {"pissa": 4e-3, "olora": 4e-3}
"""They move large weights: at the higher rate, Adam makes differences of the last bit grow."""
CURVES = {
    "rslora": ("llama", {"type": "rslora"}, (), {}),
    "dora": ("llama", {"type": "dora"}, (), {}),
    "dora, biased": ("gpt2", {"type": "dora"}, (), {}),
    "lora_plus": ("llama", {"lora_plus": 4.0}, (), {}),
    "pissa": ("llama", {"init": "pissa"}, (), {"init_lora_weights": "pissa"}),
    "olora": ("llama", {"init": "olora"}, (), {"init_lora_weights": "olora"}),
    "modules_to_save": ("llama", {"modules_to_save": ("embed_tokens", "lm_head", "model.norm")}, (), {}),
    "new tokens": ("llama", {}, NEW, {}),
    "new tokens, tied": ("gemma2", {}, NEW, {}),
}


@pytest.fixture(scope="module")
def rows():
    """Sequences that count up by one, of mixed length, with new tokens among them: there is something to learn."""
    rng, made = np.random.default_rng(3), []
    for row in range(8):
        size = int(rng.integers(6, 24))
        ids = (int(rng.integers(0, 100)) + np.arange(size)).astype(np.int32)
        ids[2 + row % 3] = NEW[row % 2]
        made.append(Example(ids, (np.arange(size) >= max(1, size // 3)).astype(np.float32), row))
    return made


def known(rows, new):
    """The rows; without the new tokens for a model that lacks them."""
    return rows if new else [Example(np.minimum(one.ids, tiny.VOCAB - 1), one.weights, one.row) for one in rows]


def ours(folder, case, rows, sabotage="", **changes):
    _, method, new, _ = CURVES[case]
    spec = EngineSpec(model=folder, method=replace(LORA, **method), new_tokens=new, token_budget=60)
    engine = TorchEngine(replace(spec, optimizer=Optimizer(weight_decay=DECAY), **changes))
    spoil(engine, sabotage)
    plan = engine.prepare(known(rows, new))
    return engine, lambda: [engine.step(plan, SLOWER.get(case, LR)).loss for _ in range(STEPS)]


def spoil(engine, sabotage):
    for layer in (layer for _, layer in lora.layers(engine.model)):
        if sabotage == "the scale of lora":
            layer.scale = LORA.alpha / LORA.r
        if sabotage == "lengths stay" and isinstance(layer, dora.DoRALinear):
            layer.magnitude.requires_grad_(False)
        if sabotage == "the start is not taken away":
            layer.taken = None
    if sabotage == "one rate for all":
        for group in engine.optimizer.param_groups:
            group["rate"] = 1.0
    for name, parameter in engine.parameters.items():
        if sabotage == "only the layers learn" and ".lora_" not in name:
            parameter.requires_grad_(False)


def theirs(folder, case, rows, start):
    """PEFT's own modules in a plain loop, one example at a time, from the same start."""
    _, method, new, config = CURVES[case]
    plain = base(folder, max(new, default=0) + 1)
    if config:
        wanted = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", **config)
        model = get_peft_model(plain, wanted)
    else:
        model = PeftModel.from_pretrained(plain, start, is_trainable=True)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(groups(trained, SLOWER.get(case, LR), method.get("lora_plus", 1.0)))
    losses, denominator = [], sum(float(one.weights.sum()) for one in rows)
    for _ in range(STEPS):
        optimizer.zero_grad()
        total = sum(cost(model, one) for one in known(rows, new)) / denominator
        total.backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimizer.step()
        losses.append(float(total))
    return losses


def groups(trained, lr, ratio):
    return [
        {"params": [p], "weight_decay": DECAY if p.ndim >= 2 else 0.0, "lr": lr * (ratio if "lora_B" in name else 1.0)}
        for name, p in trained.items()
    ]


def cost(model, example):
    ids = torch.tensor(example.ids[None].astype(np.int64))
    losses = torch.nn.functional.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="none")
    return (losses * torch.tensor(example.weights[1:])).sum()


@pytest.fixture(scope="module")
def curve(models, rows, tmp_path_factory):
    """PEFT's losses of a case, each once."""
    found = {}

    def get(case):
        if case not in found:
            folder = models(CURVES[case][0])
            engine, _ = ours(folder, case, rows)
            start = exported(engine, tmp_path_factory.mktemp("start") / "adapter")
            found[case] = theirs(folder, case, rows, start)
        return found[case]

    return get


def agree(one, other):
    return np.allclose(one, other, rtol=1e-5, atol=0)


@pytest.mark.parametrize("case", CURVES)
def test_losses_equal_pefts(models, rows, curve, case):
    """Step by step; the loss must fall for this to say anything."""
    losses, expected = ours(models(CURVES[case][0]), case, rows)[1](), curve(case)
    assert losses[-1] < 0.8 * losses[0]
    worst = max(abs(a - b) / b for a, b in zip(losses, expected, strict=True))
    assert agree(losses, expected), f"largest relative difference {worst:.2e}"


@pytest.mark.parametrize(
    ("case", "sabotage"),
    [
        ("rslora", "the scale of lora"),
        ("dora", "lengths stay"),
        ("lora_plus", "one rate for all"),
        ("pissa", "the start is not taken away"),
        ("olora", "the start is not taken away"),
        ("modules_to_save", "only the layers learn"),
        ("new tokens", "only the layers learn"),
        ("new tokens, tied", "only the layers learn"),
    ],
)
def test_the_comparison_notices(models, rows, curve, case, sabotage):
    losses = ours(models(CURVES[case][0]), case, rows, sabotage)[1]()
    assert not agree(losses, curve(case))
    assert all(math.isfinite(loss) for loss in losses)
