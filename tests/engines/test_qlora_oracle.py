"""QLoRA held against PEFT over bitsandbytes' own layers: the same adapter, the same logits, the same losses.

In 8 bits theirs rounds the inputs of every layer too (LLM.int8()), ours does not: no oracle there.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("bitsandbytes")
pytest.importorskip("peft")

import oracles
import torch

from truetune.data.steps import Steps
from truetune.engines.base import EngineSpec, Method, Optimizer
from truetune.engines.torch import quantised, tiny
from truetune.engines.torch.engine import TorchEngine

pytestmark = pytest.mark.slow

STEPS, BATCH, LR, DECAY = 24, 8, 1e-2, 0.1
QLORA = Method(type="qlora", r=4, alpha=8, bits=4)
ARCHITECTURES = ("llama", "mistral-window", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "gpt2", "gptj")


def spec(folder, **changes):
    return replace(EngineSpec(model=folder, method=QLORA, optimizer=Optimizer(weight_decay=DECAY)), **changes)


def theirs(folder, adapter):
    """PEFT's model over bitsandbytes' layers, in training mode: elsewhere these compute in bfloat16 on some CPUs."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    packing = quantised.loading(4, None, torch.float32, "cpu")
    settings = {"dtype": torch.float32, "attn_implementation": "eager"}
    base = AutoModelForCausalLM.from_pretrained(folder, **packing, **settings)
    return PeftModel.from_pretrained(base, adapter, is_trainable=True).train()


def wide(name):
    """Rows of 64 and more: bitsandbytes' own CPU kernel reads narrower ones with other blocks' scales."""
    if name.startswith("gpt"):
        return {"n_embd": 64}
    return {"hidden_size": 64} | ({"head_dim": 16} if name in ("qwen3", "gemma2", "gemma3") else {})


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_peft_over_a_packed_base_reads_our_adapter(tmp_path, name):
    folder = tiny.make(tmp_path / "model", name, **wide(name))
    ids, logits = oracles.noise(TorchEngine(spec(folder)), tmp_path / "adapter")
    with torch.no_grad():
        reference = theirs(folder, tmp_path / "adapter")(ids).logits
    assert (logits - reference).abs().max() <= 1e-5 * max(1.0, float(reference.abs().max()))


WRONG = {"base not packed": {"bits": 0}, "8 bits": {"bits": 8}, "other scale": {"alpha": 8.1}}


def ours(folder, examples, order, **mistake):
    engine = TorchEngine(spec(folder, method=replace(QLORA, **mistake)))
    return [engine.step(engine.prepare([examples[i] for i in order.indices(step)]), LR).loss for step in range(STEPS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.make(tmp_path_factory.mktemp("model"), "llama", hidden_size=64)


@pytest.fixture(scope="module")
def reference(folder, tmp_path_factory):
    """The losses of a plain loop around PEFT's model: AdamW, decay on matrices, the gradient clipped to 1."""
    start = tmp_path_factory.mktemp("start")
    TorchEngine(spec(folder)).export(start)
    model = theirs(folder, start)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LR, weight_decay=DECAY)
    examples, order, losses = oracles.counting(), Steps(64, BATCH, seed=5), []
    for step in range(STEPS):
        picked = [examples[i] for i in order.indices(step)]
        count = sum(float(example.weights.sum()) for example in picked)
        total = 0.0
        for example in picked:
            ids = torch.from_numpy(example.ids.astype(np.int64))[None]
            logp = model(ids).logits[0, :-1].log_softmax(-1)
            taken = logp[torch.arange(ids.shape[1] - 1), ids[0, 1:]]
            loss = -(taken * torch.from_numpy(example.weights[1:])).sum() / count
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
    return losses


def test_losses_equal_peft_over_bitsandbytes(folder, reference):
    losses = ours(folder, oracles.counting(), Steps(64, BATCH, seed=5))
    assert losses[-1] < 0.8 * losses[0]
    worst = max(abs(a - b) / b for a, b in zip(losses, reference, strict=True))
    assert worst <= 1e-5, f"largest relative difference {worst:.2e}"


@pytest.mark.parametrize("mistake", WRONG.values(), ids=WRONG)
def test_the_comparison_notices(folder, reference, mistake):
    losses = ours(folder, oracles.counting(), Steps(64, BATCH, seed=5), **mistake)
    assert max(abs(a - b) / b for a, b in zip(losses, reference, strict=True)) > 1e-4
