"""Both texts of a pair begin with the same prompt. Computed once, it gives what it gives when computed twice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from compared import LORA, mistaken, pairs, referenced, spec

from truetune.data.example import Example
from truetune.engines.torch import batch, model, tiny
from truetune.engines.torch.engine import TorchEngine

FAST = ("llama", "mistral-window", "gemma2")
PACKED = [name for name, (kind, _) in tiny.ARCHITECTURES.items() if model.packs(kind)]
EVERY = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in PACKED]
ALWAYS, NEVER = 1, 10**9


def examples():
    """Pairs, two of them with answers that begin alike, one whose worse answer is the beginning of the better, and a
    text that stands alone."""
    made = pairs(5)
    better, worse = (made[0].ids[part] for part in made[0].texts)
    alike = worse.copy()
    alike[: min(len(better), len(worse)) - 1] = better[: min(len(better), len(worse)) - 1]
    made.append(replace(made[0], ids=np.concatenate((better, alike)), row=5))
    cut, weights = better[:-2], made[0].weights[: len(better)]
    made.append(Example(np.concatenate((better, cut)), np.concatenate((weights, weights[:-2])), 6, second=len(better)))
    return made


def step(folder, monkeypatch, shared, **changes):
    """Loss, figures and every gradient of one step over an adapter that has moved."""
    monkeypatch.setattr(batch, "SHARED", shared)
    engine = TorchEngine(spec(folder, **({"token_budget": 10_000} | changes)))
    plan = engine.prepare(referenced(engine, examples()))
    generator = torch.Generator().manual_seed(7)
    for parameter in engine.parameters.values():
        parameter.data.normal_(std=0.2, generator=generator)
    result = engine._gradient(plan)
    return result, {name: parameter.grad.clone() for name, parameter in engine.parameters.items()}


@pytest.mark.parametrize("name", EVERY)
def test_shared_is_equal(models, monkeypatch, name):
    (one, slopes), (other, expected) = (step(models(name), monkeypatch, shared) for shared in (ALWAYS, NEVER))
    assert one.loss == pytest.approx(other.loss, rel=1e-5)
    assert (one.tokens, one.supervised) == (other.tokens, other.supervised)
    assert one.figures == pytest.approx(other.figures, rel=1e-4, abs=1e-6)
    for key, slope in slopes.items():
        assert torch.allclose(slope, expected[key], rtol=1e-4, atol=1e-5 * float(expected[key].abs().max())), key


@pytest.mark.parametrize("objective", ["orpo", "simpo", "cpo"])
def test_for_other_objectives_too(llama, monkeypatch, objective):
    one, other = (step(llama, monkeypatch, shared, objective=objective)[0] for shared in (ALWAYS, NEVER))
    assert one.loss == pytest.approx(other.loss, rel=1e-5)
    assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-4)


def test_checkpointing_and_one_by_one_share_as_well(llama, monkeypatch):
    results = [
        step(llama, monkeypatch, ALWAYS, **changes)[0]
        for changes in ({}, {"gradient_checkpointing": True}, {"token_budget": 1})
    ]
    assert results[0].loss == results[1].loss
    assert results[0].loss == pytest.approx(results[2].loss, rel=1e-5)
    assert results[0].grad_norm == pytest.approx(results[2].grad_norm, rel=1e-4)


def test_dropout_is_drawn_once_for_the_prompt_and_resumes(llama, monkeypatch):
    """Two engines of the same seed draw the same."""
    method = replace(LORA, dropout=0.3)
    one, other = (step(llama, monkeypatch, ALWAYS, method=method)[0] for _ in range(2))
    assert one == other


def test_what_is_shared_stands_once(monkeypatch):
    monkeypatch.setattr(batch, "SHARED", ALWAYS)
    ids = np.array([5, 6, 7, 8, 9, 5, 6, 7, 3], np.int32)
    weights = np.array([0, 0, 0, 1, 1, 0, 0, 0, 1], np.float32)
    pair, alone = Example(ids, weights, 0, second=5), Example(ids[[1, 2, 3]], weights[2:5], 1)
    row = batch.pack([pair, alone], "cpu")
    assert row.ids.tolist() == [[5, 6, 7, 8, 9, 3, 6, 7, 8]]
    assert row.positions.tolist() == [[0, 1, 2, 3, 4, 3, 0, 1, 2]]
    assert row.segments == ((0, 5), (5, 6, 0, 3), (6, 9))
    assert row.picked.tolist() == [2, 3, 2, 6, 7]
    assert row.targets.tolist() == [8, 9, 3, 7, 8]
    assert row.owners.tolist() == [0, 0, 1, 2, 2]
    assert (row.supervised, row.texts) == (5, 3)


def test_a_short_prompt_is_not_shared():
    prompt = np.arange(batch.SHARED + 1, dtype=np.int32)
    for size, segments in ((batch.SHARED - 1, 2), (batch.SHARED, 4)):
        ids = np.concatenate((prompt[:size], [1, 2], prompt[:size], [3, 4])).astype(np.int32)
        weights = np.tile(np.array([0] * size + [1, 1], np.float32), 2)
        row = batch.pack([Example(ids, weights, 0, second=size + 2)], "cpu")
        assert len(row.segments[1]) == segments


@pytest.mark.parametrize("mistake", ["positions", "lead", "picked"])
def test_the_comparison_notices(llama, monkeypatch, mistake):
    """What could go wrong: the second answer counted from 0, blind for the prompt, or read from the wrong place."""
    other = step(llama, monkeypatch, NEVER)[0]
    wrong = mistaken(batch.pack, mistake, lambda row: row.picked + (row.owners % 2 == 1).long())
    monkeypatch.setattr("truetune.engines.torch.engine.pack", wrong)
    assert step(llama, monkeypatch, ALWAYS)[0].loss != pytest.approx(other.loss, rel=1e-4)
