"""On a GPU: the same curve as on the CPU, exact resume, bfloat16. Skipped where there is none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from truetune.engines.base import EngineSpec
from truetune.engines.torch import device, tiny
from truetune.engines.torch.engine import TorchEngine
from truetune.testing import examples
from truetune.testing.contract import LORA

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")


@pytest.fixture(params=["llama", "gemma2", "gptj"])
def spec(request, tmp_path):
    return EngineSpec(model=tiny.make(tmp_path / "model", request.param), method=LORA, token_budget=64, device="cuda")


def curve(engine, steps=range(6)):
    return [engine.step(engine.prepare(examples(seed=step)), 5e-3) for step in steps]


def test_the_curve_is_that_of_the_cpu(spec):
    gpu, cpu = curve(TorchEngine(spec)), curve(TorchEngine(replace(spec, device="cpu")))
    assert np.allclose([r.loss for r in gpu], [r.loss for r in cpu], rtol=1e-3)


def test_restore_undoes_save(spec, tmp_path):
    dropout = replace(spec, method=replace(LORA, dropout=0.3))
    first, second = TorchEngine(dropout), TorchEngine(dropout)
    curve(first, range(3))
    (tmp_path / "saved").mkdir()
    first.save(tmp_path / "saved")
    second.restore(tmp_path / "saved")
    assert curve(first, range(3, 6)) == curve(second, range(3, 6))


def test_bfloat16_is_chosen_where_it_is_native(spec):
    choice = device.choose()
    assert choice.device == "cuda"
    engine = TorchEngine(replace(spec, dtype=choice.dtype))
    plan = engine.prepare(examples())
    losses = [engine.step(plan, 1e-2).loss for _ in range(8)]
    assert losses[-1] < losses[0]
    assert engine.usage().peak > 0
