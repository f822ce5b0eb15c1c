"""Layers' inputs in the host's memory: the same numbers to the bit, and chosen only where a GPU needs it."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("torch")

import torch
from torch.autograd.graph import saved_tensors_hooks

from truetune.config import load
from truetune.engines.base import Choice, EngineSpec
from truetune.engines.torch import offload
from truetune.engines.torch.engine import TorchEngine
from truetune.errors import ResourceError
from truetune.models import facts, fit, memory, source
from truetune.testing import examples
from truetune.testing.contract import LORA
from truetune.train.resolve import case

GB = 10**9
LLAMA = replace(
    facts.read(source.STARTER), hidden=4096, layers=32, heads=32, kv_heads=8, head_dim=128, intermediate=14336,
    vocabulary=128256, parameters=8_030_000_000,
)  # fmt: skip


@pytest.fixture
def moved(monkeypatch):
    """Shapes of what went to the host's memory and of what came back."""
    found, away, back = ([], []), offload.away, offload.back

    def noted(tensor):
        kept = away(tensor)
        if tensor.requires_grad:
            assert kept[1].data_ptr() != tensor.data_ptr()
            found[0].append(tuple(tensor.shape))
        return kept

    def returned(kept):
        found[1].append(tuple(kept[1].shape))
        return back(kept)

    monkeypatch.setattr(offload, "away", noted)
    monkeypatch.setattr(offload, "back", returned)
    return found


def test_there_and_back_is_the_same_gradient():
    torch.manual_seed(0)
    x, W = torch.randn(6, 5, requires_grad=True), torch.randn(5, 5, requires_grad=True)
    mask = torch.ones(6, 5)

    def gradients():
        return torch.autograd.grad(((x @ W).sin() * mask).exp().sum(), (x, W))

    plain = gradients()
    with saved_tensors_hooks(offload.away, offload.back):
        hosted = gradients()
    assert all(torch.equal(one, other) for one, other in zip(plain, hosted, strict=True))


@pytest.mark.parametrize("name", ["llama", "gpt2", "gptj"])
@pytest.mark.parametrize("method", [replace(LORA, dropout=0.2), replace(LORA, type="full")], ids=["lora", "full"])
def test_steps_are_the_same_to_the_bit(models, moved, name, method):
    """A layer's input each, and nothing else: no mask, no weight, nothing from inside a layer."""
    results, spec = [], EngineSpec(models(name), method, token_budget=64, gradient_checkpointing=True)
    for wanted in (False, True):
        engine = TorchEngine(replace(spec, offload=wanted))
        assert engine.describe()["offload"] is wanted
        plans = [engine.prepare(examples(seed=step)) for step in range(3)]
        assert moved == ([], [])
        results.append([engine.step(plan, 1e-2) for plan in plans])
    assert results[0] == results[1]
    layers, width = engine.model.config.num_hidden_layers, 32
    batches = sum(len(plan.micro_batches) for plan in plans)
    assert len(moved[0]) == batches * layers and {shape[-1] for shape in moved[0]} == {width}
    assert sorted(moved[0]) == sorted(shape for shape in moved[1] if shape[-1:] == (width,))


def on(device: str, available: int, longest: int, host: int | None = None, **keys: object) -> fit.Case:
    config = load(None, (), {"model": "starter", "data": "rows.jsonl", "method.type": "lora", **keys}).config
    found = case(config, LLAMA, Choice(device, "bfloat16", "", ""), available, longest, packed=True)
    return replace(found, host=host)


def between(longest: int) -> int:
    """Available memory that is too little with gradient checkpointing alone, and enough where inputs wait elsewhere."""
    found = on("cuda", 0, longest)
    return int((found.checkpointing().needs + found.offloading().needs) / 2 / fit.SHARE)


def test_it_is_chosen_where_checkpointing_alone_does_not_fit():
    size = between(4000)
    found = fit.budget(on("cuda", size, 4000))
    assert found.offload and found.checkpointing and found.tokens >= 4000
    assert found.estimate.total <= size * fit.SHARE
    host = memory.host_bytes(LLAMA, on("cuda", 0, 1).offloading().setup, found.tokens)
    assert f"about {memory.readable(host)} of activations in the host's memory" in found.reason
    roomy = fit.budget(on("cuda", int(on("cuda", 0, 4000).checkpointing().needs / fit.SHARE) + 10**6, 4000))
    assert roomy.checkpointing and not roomy.offload and "host" not in roomy.reason


def test_a_processor_never_offloads():
    """Its memory is the host's: there is no other to wait in."""
    assert [way.setup.offload for way in fit.alike(on("cuda", 400 * GB, 4000))] == [False, False, True]
    assert [way.setup.offload for way in fit.alike(on("cpu", 400 * GB, 4000))] == [False, False]
    needs = on("cpu", 0, 4000).checkpointing().needs
    assert not fit.budget(on("cpu", int(needs / fit.SHARE) + 10, 4000)).offload
    with pytest.raises(ResourceError):
        fit.budget(on("cpu", int(needs / fit.SHARE) - 10, 4000))


def test_the_hosts_memory_counts_too():
    """32 layers of 4096 numbers of 2 bytes are 262,144 bytes per token: 1.05 GB for 4,000 tokens."""
    size, need = between(4000), 4000 * 262_144
    assert memory.host_bytes(LLAMA, on("cuda", 0, 1).offloading().setup, 4000) == need
    enough, little = (on("cuda", size, 4000, host) for host in (int(need / fit.SHARE) + 10, int(need * 0.9)))
    assert fit.budget(enough).tokens == 4000
    with pytest.raises(ResourceError) as caught:
        fit.budget(little)
    assert caught.value.finding.code == "memory.too_small"


def test_prefix_methods_have_no_layers_to_compute_again():
    found = on("cuda", 40 * GB, 512, **{"method.type": "prefix"})
    assert [way.setup.checkpointing for way in fit.alike(found)] == [False]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_a_gpu_holds_less(models):
    """The layers' inputs are what is missing from its peak, and the losses are the same."""
    folder = models("llama", num_hidden_layers=16, hidden_size=256)
    peaks, losses = [], []
    for wanted in (False, True):
        torch.cuda.reset_peak_memory_stats()
        spec = EngineSpec(folder, LORA, device="cuda", gradient_checkpointing=True, offload=wanted, token_budget=4096)
        engine = TorchEngine(spec)
        plan = engine.prepare([one for seed in range(20) for one in examples(seed=seed)])
        losses.append([engine.step(plan, 1e-2).loss for _ in range(2)])
        peaks.append(engine.usage().peak)
        engine.close()
    assert losses[0] == losses[1]
    largest = max(sum(plan.examples[i].tokens for i in part) for part in plan.micro_batches)
    assert peaks[0] - peaks[1] > 10 * largest * 256 * 4
