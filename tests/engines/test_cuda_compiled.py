"""Compiled layers: the same curve, packed rows of any length, checkpointing, a resume; and a compiler that fails.

Here with torch's tracer and without its code generator (`aot_eager`); on a GPU with both.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("torch")

import torch

from truetune.engines.base import EngineSpec
from truetune.engines.torch import compiled
from truetune.engines.torch.engine import TorchEngine
from truetune.testing import examples
from truetune.testing.contract import LORA

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU: compiled layers are NOT tested here")
DROPOUT = replace(LORA, dropout=0.2)


@pytest.fixture
def traced(monkeypatch):
    region = compiled.region
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    torch._dynamo.reset()
    region.cache_clear()
    yield
    torch._dynamo.reset()
    region.cache_clear()


def curve(engine, steps=range(4)):
    return [engine.step(engine.prepare(examples(seed=step)), 5e-3) for step in steps]


def frames():
    return torch._dynamo.utils.counters["frames"]["total"]


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_compiled_run_is_the_same(models, traced, tmp_path, checkpointing):
    """Rows of any number of segments without compiling again, dropout's draws, a resume, and measuring beside it."""
    torch._dynamo.utils.counters.clear()
    folder = models("llama", num_hidden_layers=3)
    spec = EngineSpec(folder, DROPOUT, token_budget=64, gradient_checkpointing=checkpointing)
    plain, ours = TorchEngine(spec), TorchEngine(replace(spec, compiled=True))
    assert ours.describe()["kernels"]["layers"] == "2 of 3 compiled"
    first = curve(ours, range(2))
    count = frames()
    ours.loss(ours.prepare(examples(seed=9)))
    (tmp_path / "saved").mkdir()
    ours.save(tmp_path / "saved")
    later = curve(ours, range(2, 5))
    assert frames() == count > 0
    for one, other in zip(first + later, curve(plain, range(5)), strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-4)
    again = TorchEngine(replace(spec, compiled=True))
    again.restore(tmp_path / "saved")
    assert curve(again, range(2, 5)) == later


@pytest.mark.slow
def test_a_compiler_that_fails_or_errs_changes_nothing(llama, traced, monkeypatch):
    def failing(graph, inputs):
        raise RuntimeError("no such target\nand more")

    spec = EngineSpec(llama, LORA, token_budget=64, compiled=True)
    monkeypatch.setattr(compiled, "BACKEND", failing)
    engine = TorchEngine(spec)
    assert engine.describe()["kernels"]["layers"].startswith("not compiled (BackendCompilerFailed:")
    assert curve(engine, range(1)) == curve(TorchEngine(replace(spec, compiled=False)), range(1))

    def off(family):
        def forward(self, *given, **keys):
            return family.forward(self, *given, **keys) * 1.1

        return type(family.__name__, (family,), {"forward": forward})

    monkeypatch.setattr(compiled, "region", off)
    engine = TorchEngine(spec)
    assert "of a trial is" in engine.describe()["kernels"]["layers"]
    assert curve(engine, range(1)) == curve(TorchEngine(replace(spec, compiled=False)), range(1))


@GPU
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_on_a_gpu_a_compiled_run_is_the_same(models, dtype):
    spec = EngineSpec(models("llama", num_hidden_layers=3), DROPOUT, token_budget=64, device="cuda", dtype=dtype)
    ours = TorchEngine(replace(spec, compiled=True))
    assert ours.describe()["kernels"]["layers"] == "2 of 3 compiled"
    for one, other in zip(curve(ours), curve(TorchEngine(spec)), strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-4 if dtype == "float32" else 2e-2)
