"""Every method under optimizers of each kind, with noise and a running mean: a resume goes on to the bit."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("torch")

from truetune.engines.base import EngineSpec, Method, Optimizer
from truetune.engines.torch.engine import TorchEngine
from truetune.testing import examples

pytestmark = pytest.mark.slow

FAMILY = Method(r=4, alpha=8, dropout=0.1)
METHODS = {
    "lora": FAMILY,
    "lora_plus": replace(FAMILY, lora_plus=8.0),
    "dora": replace(FAMILY, type="dora"),
    "pissa": replace(FAMILY, init="pissa"),
    "qlora": replace(FAMILY, type="qlora", bits=4),
    "full": Method(type="full", frozen_layers=1),
    **{name: Method(type=name, virtual_tokens=5) for name in ("prefix", "ptuning_v2", "ptuning", "prompt")},
    "ia3": Method(type="ia3"),
}
BESIDE = {"ema": 0.7, "neftune_alpha": 20.0}


def engine(folder, method, kind, **changes):
    spec = EngineSpec(model=folder, method=METHODS[method], optimizer=Optimizer(type=kind), token_budget=128)
    return TorchEngine(replace(spec, **changes))


def train(engine, steps):
    return [engine.step(engine.prepare(examples(seed=step)), 5e-3) for step in steps]


@pytest.mark.parametrize("kind", ["adamw", "muon", "adafactor", "sgd"])
@pytest.mark.parametrize("method", METHODS)
def test_a_resume_goes_on_bit_by_bit(models, tmp_path, method, kind):
    if method == "qlora":
        pytest.importorskip("bitsandbytes")
    first, second = (engine(models("llama"), method, kind, **BESIDE) for _ in range(2))
    train(first, range(3))
    first.save(tmp_path)
    second.restore(tmp_path)
    assert train(second, range(3, 6)) == train(first, range(3, 6))
    rows = first.prepare(examples(seed=50))
    assert second.loss(rows) == first.loss(rows)


@pytest.mark.parametrize("method", METHODS)
def test_noise_and_mean_reach_every_method(models, method):
    plain, noisy, meaning = (
        engine(models("llama"), method, "adamw", **changes) for changes in ({}, {"neftune_alpha": 20.0}, {"ema": 0.99})
    )
    found = [train(one, range(3)) for one in (plain, noisy, meaning)]
    assert found[0][0].loss != found[1][0].loss and found[0] == found[2]
    rows = plain.prepare(examples(seed=50))
    assert meaning.loss(rows).loss != plain.loss(rows).loss
