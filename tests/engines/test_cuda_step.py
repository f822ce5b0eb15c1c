"""A step asks a GPU for numbers once, however many micro-batches it has; the base stays in its own narrow numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("torch")

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from truetune.engines.base import EngineSpec
from truetune.engines.torch.engine import TorchEngine, numbers
from truetune.testing import examples
from truetune.testing.contract import LORA

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU: waiting for the device is NOT tested here")
WAITS = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "unique")
"""Operators whose result the host must see before it goes on."""


class Noted(TorchDispatchMode):
    """What of `WAITS` is called, and the shapes of what is widened from bfloat16 to float32."""

    def __init__(self):
        super().__init__()
        self.waits, self.widened = [], set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in WAITS:
            self.waits.append(name)
        if name in ("_to_copy", "to") and result.dtype == torch.float32 and args[0].dtype == torch.bfloat16:
            self.widened.add(frozenset(args[0].shape))
        return result


@pytest.mark.parametrize("checkpointing", [False, True])
def test_no_micro_batch_waits(llama, checkpointing):
    method = replace(LORA, dropout=0.2)
    engine = TorchEngine(EngineSpec(llama, method, token_budget=40, gradient_checkpointing=checkpointing))
    plan = engine.prepare(examples())
    assert len(plan.micro_batches) > 2
    with Noted() as noted:
        result = engine.step(plan, 1e-3)
    assert noted.waits == [] and result.loss > 0 and result.grad_norm > 0


def test_numbers_are_read_as_they_are():
    given = [torch.tensor(0.1), torch.tensor(3, dtype=torch.int64), torch.tensor(1e300, dtype=torch.float64)]
    assert numbers(given) == [float(torch.tensor(0.1)), 3.0, 1e300]
    assert numbers([]) == []


def test_the_base_stays_narrow_and_the_adapter_wide(models):
    """bfloat16 weights are never copied to float32; adapter, gradients and moments are float32."""
    folder = models("llama", hidden_size=64, intermediate_size=256)
    engine = TorchEngine(EngineSpec(folder, LORA, dtype="bfloat16", token_budget=40))
    frozen = [p for p in engine.model.parameters() if not p.requires_grad]
    assert {p.dtype for p in frozen} == {torch.bfloat16}
    assert {p.dtype for p in engine.parameters.values()} == {torch.float32}
    with Noted() as noted:
        engine.step(engine.prepare(examples(3, longest=12)), 1e-3)
    weights = {frozenset(weight.shape) for weight in frozen if weight.ndim == 2}
    assert noted.widened and not noted.widened & weights
    moments = [value for state in engine.optimizer.state.values() for value in state.values()]
    assert {value.dtype for value in moments} == {torch.float32}


@GPU
def test_on_a_gpu_nothing_waits_before_the_end_of_a_step(llama):
    engine = TorchEngine(EngineSpec(llama, LORA, token_budget=40, device="cuda", dtype="bfloat16"))
    plan = engine.prepare(examples())
    engine.step(plan, 1e-3)
    waited = []
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with pytest.warns(UserWarning) as waited:
            engine.step(plan, 1e-3)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    said = [str(warning.message) for warning in waited if "synchroniz" in str(warning.message)]
    assert len(said) < len(plan.micro_batches), said
