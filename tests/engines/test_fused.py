"""The fused functions beside their plain formulas, and whole models with and without them."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from truetune.engines.torch import fused, tiny


def compare(ours, theirs, leaves):
    """Values and gradients of two results of the same leaves."""
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    upstream = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    pairs = zip(torch.autograd.grad(ours, leaves, upstream), torch.autograd.grad(theirs, leaves, upstream), strict=True)
    assert all(torch.allclose(one, other, rtol=1e-4, atol=1e-5) for one, other in pairs)


@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e3])
def test_the_norm_equals_autograd(scale):
    torch.manual_seed(0)
    x, weight = (torch.randn(2, 7, 24) * scale).requires_grad_(), torch.rand(24)
    plain = weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))
    ours = fused.Norm.apply(x, weight, 1e-6)
    assert torch.allclose(ours, plain, rtol=1e-5, atol=1e-6)
    upstream = torch.randn(2, 7, 24)
    (one,), (other,) = torch.autograd.grad(ours, x, upstream), torch.autograd.grad(plain, x, upstream)
    assert torch.allclose(one, other, rtol=1e-3, atol=1e-5 * float(other.abs().max()))


def test_the_norm_of_nothing_is_nothing():
    x = torch.zeros(1, 3, 8, requires_grad=True)
    fused.Norm.apply(x, torch.ones(8), 1e-6).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_the_gate_equals_autograd():
    torch.manual_seed(0)
    gate, up = (torch.randn(2, 7, 24, requires_grad=True) for _ in range(2))
    compare(fused.Gate.apply(gate, up), F.silu(gate) * up, (gate, up))


TAKES_PART = {"llama": 7, "qwen3": 11, "gemma2": 0, "gpt2": 0, "mixtral": 5, "phi3": 5}
"""Modules of the tiny models: two norms and a gate in each of two layers and the last norm; Qwen3 norms heads too."""


@pytest.mark.parametrize("architecture", sorted(TAKES_PART))
def test_a_model_stays_what_it_is(architecture, tmp_path):
    folder = tiny.make(tmp_path / "model", architecture)
    plain, other = (AutoModelForCausalLM.from_pretrained(folder).requires_grad_(False).eval() for _ in range(2))
    fused.install(other)
    found = [module for module in other.modules() if isinstance(module, fused.FusedNorm | fused.FusedGate)]
    assert len(found) == TAKES_PART[architecture]
    hidden = [model.get_input_embeddings()(torch.arange(4, 14)[None]).requires_grad_() for model in (plain, other)]
    results = [model(inputs_embeds=one).logits for model, one in zip((plain, other), hidden, strict=True)]
    assert torch.allclose(*results, rtol=1e-4, atol=1e-5)
    gradients = [
        torch.autograd.grad(result.logsumexp(-1).sum(), one)[0] for result, one in zip(results, hidden, strict=True)
    ]
    assert torch.allclose(*gradients, rtol=1e-3, atol=1e-5)


def test_a_norm_that_is_trained_computes_its_own_gradient(tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tiny.make(tmp_path / "model"))
    fused.install(model)
    model(input_ids=torch.arange(4, 14)[None]).logits.sum().backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if "norm" in name)
