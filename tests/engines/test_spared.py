"""Leaving positions out of the last layer changes no loss and no gradient."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import nn

from truetune.data.example import Example
from truetune.engines.base import EngineSpec, Method, Objective
from truetune.engines.torch import products, spared
from truetune.engines.torch.engine import open_engine


def examples(count: int = 3, pairs: bool = False) -> list[Example]:
    rng, found = np.random.default_rng(0), []
    for number in range(count):
        ids = rng.integers(4, 60, 30).astype(np.int32)
        weights = (np.arange(30) >= 22).astype(np.float32)
        if pairs:
            ids, weights = np.concatenate([ids, ids[:22], ids[4:9]]), np.concatenate([weights, weights[:22], [1.0] * 5])
        found.append(
            Example(
                ids, weights.astype(np.float32), number, **({"second": 30, "reference": (-9.0, -8.0)} if pairs else {})
            )
        )
    return found


def gradients(folder, given, **spec):
    """Loss and gradients of one step, and the most tokens that the last MLP was given."""
    engine = open_engine(EngineSpec(model=folder, method=Method(r=4), seed=3, **spec))
    for name, parameter in engine.parameters.items():
        torch.manual_seed(len(name))
        parameter.data += 0.05 * torch.randn_like(parameter)
    seen: list[int] = []
    mlp = engine.forward.model.base_model.layers[-1].mlp
    mlp.register_forward_pre_hook(lambda _, x: seen.append(x[0].shape[1]))
    kept: dict[str, torch.Tensor] = {}
    plan, clip = engine.prepare(given), nn.utils.clip_grad_norm_

    def clipped(parameters, limit):
        norm = clip(parameters, limit)
        kept.update({name: parameter.grad.clone() for name, parameter in engine.parameters.items()})
        return norm

    nn.utils.clip_grad_norm_ = clipped
    try:
        result = engine.rehearse(plan)
    finally:
        nn.utils.clip_grad_norm_ = clip
    return result.loss, kept, max(seen), plan.tokens


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma2", "gemma3", "mixtral", "phi"])
def test_loss_and_gradients_are_those_of_all_positions(models, architecture, monkeypatch):
    folder = models(architecture)
    loss, found, most, _ = gradients(folder, examples())
    monkeypatch.setattr(spared, "alone", lambda model, layer: [])
    plain, wanted, all_of_them, tokens = gradients(folder, examples())
    assert (most, all_of_them) == (24, products.rounded(tokens))
    assert loss == pytest.approx(plain, rel=1e-6)
    for name, gradient in wanted.items():
        assert torch.allclose(found[name], gradient, rtol=1e-4, atol=1e-6 * float(gradient.abs().max()) + 1e-8), name


def test_both_texts_of_a_pair_may_be_predicted_from_one_token(models, monkeypatch):
    given = {"objective": Objective("dpo")}
    loss, found, most, _ = gradients(models("llama"), examples(pairs=True), **given)
    monkeypatch.setattr(spared, "alone", lambda model, layer: [])
    plain, wanted, *_ = gradients(models("llama"), examples(pairs=True), **given)
    assert most == 3 * (8 + 5 - 1)  # the prompt's last token once
    assert loss == pytest.approx(plain, rel=1e-6)
    assert all(torch.allclose(found[name], wanted[name], rtol=1e-4, atol=1e-7) for name in wanted)


def test_checkpointing_computes_all_of_it_again(models):
    loss, *_ = gradients(models("llama"), examples())
    again, _, most, tokens = gradients(models("llama"), examples(), gradient_checkpointing=True)
    assert most == products.rounded(tokens)
    assert again == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize("noise", [None, 5.0])
def test_tokens_of_nobody_at_the_end_of_a_row_change_nothing(models, monkeypatch, noise):
    monkeypatch.setattr(products, "here", lambda: True)
    monkeypatch.setattr(products, "wide", lambda x, W: False)
    loss, found, *_ = gradients(models("llama"), examples(), neftune_alpha=noise)
    monkeypatch.setattr(spared, "alone", lambda model, layer: [])
    _, _, most, tokens = gradients(models("llama"), examples())
    assert (most, tokens) == (96, 90)
    monkeypatch.setattr(products, "here", lambda: False)
    plain, wanted, most, _ = gradients(models("llama"), examples(), neftune_alpha=noise)
    assert most == 90
    assert loss == pytest.approx(plain, rel=1e-6)
    assert all(torch.allclose(found[name], wanted[name], rtol=1e-4, atol=1e-7) for name in wanted)


def test_a_module_that_looks_beside_a_token_is_not_taken():
    class Shifted(nn.Linear):
        def forward(self, x):
            return super().forward(x + x.roll(1, dims=1))

    assert not spared.by_itself(Shifted(8, 8), 8, torch.float32)
    assert spared.by_itself(nn.Linear(8, 8), 8, torch.float32)
