"""Held against others: TRL's SFTTrainer step by step, PEFT's reading of our adapter.

The parity test is itself tested: each way of being subtly wrong must make it fail.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("trl")
pytest.importorskip("peft")

import oracles
import torch

from truetune.data.example import Example
from truetune.engines.base import EngineSpec, Method, Optimizer, Plan
from truetune.engines.torch import tiny
from truetune.engines.torch.engine import TorchEngine

pytestmark = pytest.mark.slow

STEPS, BATCH, MICRO = 36, 8, 4
LR, DECAY = 1e-2, 0.1
LORA = Method(type="lora", r=4, alpha=8, dropout=0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.make(tmp_path_factory.mktemp("model"), "llama", hidden_size=64, num_hidden_layers=2)


@pytest.fixture(scope="module")
def rows():
    return oracles.counting()


@pytest.fixture(scope="module")
def path():
    return oracles.cosine(64, BATCH, STEPS, LR)


def spec(folder, **changes):
    return replace(EngineSpec(model=folder, method=LORA, optimizer=Optimizer(weight_decay=DECAY)), **changes)


def ours(folder, rows, path, budget=10_000, sabotage=""):
    """Our losses; `sabotage` makes one classic mistake."""
    engine = TorchEngine(spec(folder, token_budget=budget))
    losses = []
    for step in range(path.total):
        examples = [rows[i] for i in path.order.indices(step)]
        lr = path.lr(max(0, step - 1) if sabotage == "late learning rate" else step)
        losses.append(engine.step(prepare(engine, examples, sabotage), lr).loss)
        if sabotage == "no bias correction":
            for state in engine.optimizer.state.values():
                state["step"].fill_(1e9)
    return losses


def prepare(engine, examples, sabotage):
    if sabotage == "no weight decay":
        for group in engine.optimizer.param_groups:
            group["weight_decay"] = 0.0
    if sabotage == "mask off by one":
        examples = [Example(e.ids, np.concatenate([[0], e.weights[:-1]]).astype(np.float32), e.row) for e in examples]
    plan = engine.prepare(examples)
    if sabotage != "mean of means":
        return plan
    means = []
    for part in plan.micro_batches:
        total = sum(float(examples[i].weights.sum()) for i in part)
        means += [Example(examples[i].ids, examples[i].weights / np.float32(total), i) for i in part]
    order = tuple(i for part in plan.micro_batches for i in part)
    back = [means[order.index(i)] for i in range(len(examples))]
    return Plan(tuple(back), plan.micro_batches, float(len(plan.micro_batches)))


@pytest.fixture(scope="module")
def theirs(folder, rows, path, tmp_path_factory):
    """TRL's losses on the same rows in the same order, from the same adapter."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    out = tmp_path_factory.mktemp("trl")
    (out / "start").mkdir()
    TorchEngine(spec(folder)).export(out / "start")
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, out / "start", is_trainable=True)
    used = [rows[i] for step in range(path.total) for i in path.order.indices(step)]
    columns = [{"input_ids": e.ids.tolist(), "labels": np.where(e.weights > 0, e.ids, -100).tolist()} for e in used]
    settings = oracles.settings(path, LR, BATCH, MICRO) | {
        "weight_decay": DECAY,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "remove_unused_columns": False,
    }
    return oracles.losses(SFTTrainer, SFTConfig, model, columns, out, **settings)


def agree(one, other):
    return len(one) == len(other) and np.allclose(one, other, rtol=1e-5, atol=0)


@pytest.mark.parametrize("budget", [1, 60, 10_000])
def test_losses_equal_trl(folder, rows, path, theirs, budget):
    """However a step is cut; the loss must fall for this to say anything."""
    losses = ours(folder, rows, path, budget)
    assert losses[-1] < 0.8 * losses[0]
    worst = max(abs(a - b) / b for a, b in zip(losses, theirs, strict=True))
    assert agree(losses, theirs), f"largest relative difference {worst:.2e}"


@pytest.mark.parametrize(
    "sabotage", ["no bias correction", "late learning rate", "no weight decay", "mask off by one", "mean of means"]
)
def test_the_comparison_notices(folder, rows, path, theirs, sabotage):
    assert not agree(ours(folder, rows, path, budget=60, sabotage=sabotage), theirs)


ARCHITECTURES = ("llama", "mistral-window", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "gpt2", "gptj")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_peft_reads_our_adapter(tmp_path, name):
    """Logits of base + adapter by PEFT = by our layers, to 1e-5."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = tiny.make(tmp_path / "model", name)
    ids, logits = oracles.noise(TorchEngine(spec(folder)), tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        plain = base.eval()(ids).logits
        reference = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()(ids).logits
    assert (plain - reference).abs().max() > 1e-2
    assert (logits - reference).abs().max() <= 1e-5 * max(1.0, float(reference.abs().max()))


def test_we_train_on_from_an_adapter_that_peft_saved(tmp_path, folder):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    model = get_peft_model(base, config)
    model.save_pretrained(tmp_path / "adapter")
    engine = TorchEngine(spec(folder, adapter=tmp_path / "adapter"))
    ids = torch.arange(20)[None]
    with torch.no_grad():
        logits = model.eval()(ids).logits[0, :-1]
        expected = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum")
    weights = np.array([0] + [1] * 19, dtype=np.float32)
    plan = engine.prepare([Example(np.arange(20, dtype=np.int32), weights, 0)])
    assert math.isclose(engine.loss(plan).loss, float(expected), rel_tol=1e-5)
