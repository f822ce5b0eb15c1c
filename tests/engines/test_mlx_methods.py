"""LoRA's family on MLX: as torch computes it, from the same start, through the same files."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("mlx_lm", reason="MLX is not installed")

import mlx.core as mx
from safetensors.numpy import load_file

from truetune.data.example import Example
from truetune.engines import adapter
from truetune.engines.base import EngineSpec, Method, Optimizer
from truetune.engines.mlx import dora, lora
from truetune.engines.mlx.engine import open_engine
from truetune.engines.torch.engine import TorchEngine
from truetune.errors import InputError, UsageError
from truetune.testing import examples
from truetune.testing.contract import LORA, LR

STEPS = 30
CASES = {
    "rslora": replace(LORA, type="rslora"),
    "dora": replace(LORA, type="dora"),
    "pissa": replace(LORA, init="pissa"),
    "olora": replace(LORA, init="olora"),
    "dora from pissa": replace(LORA, type="dora", init="pissa"),
    "rslora from olora": replace(LORA, type="rslora", init="olora"),
    "lora plus": replace(LORA, lora_plus=4.0),
    "modules": replace(LORA, modules_to_save=("embed_tokens", "model.norm")),
    "head": replace(LORA, modules_to_save=("lm_head",)),
    "norms": replace(LORA, modules_to_save=("input_layernorm", "layers.1.self_attn.q_proj")),
    "all of it": replace(LORA, type="dora", init="olora", lora_plus=4.0, modules_to_save=("lm_head", "norm")),
}
RATES = {
    "rslora": 2e-3,
    "rslora from olora": 1e-3,
    "pissa": 2e-3,
    "olora": 1e-3,
    "dora from pissa": 2e-3,
    "all of it": 1e-3,
}
"""Not so high that rounding errors double from step to step."""
FAST = ("dora", "all of it")
EVERY = [case if case in FAST else pytest.param(case, marks=pytest.mark.slow) for case in CASES]
"""The others are in the slow suite."""
BOTH = (open_engine, TorchEngine)


def spec(folder, case="dora", **changes):
    return replace(EngineSpec(model=folder, method=CASES[case], token_budget=128), **changes)


def curve(engine, case, steps=range(STEPS)):
    rate = RATES.get(case, 5e-3)
    return [engine.step(engine.prepare(examples(8, seed=step % 4)), rate) for step in steps]


def apart(one, other):
    return max(abs(a.loss - b.loss) / b.loss for a, b in zip(one, other, strict=True))


def exported(engine, folder):
    folder.mkdir()
    engine.export(folder)
    return folder


@pytest.mark.parametrize("case", EVERY)
@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_curves_agree(models, name, case):
    """In a model whose head is its own, and in one where it is the embedding."""
    settings = {"optimizer": Optimizer(weight_decay=0.1)}
    one, other = (curve(opened(spec(models(name), case, **settings)), case) for opened in BOTH)
    assert other[-2].loss < 0.97 * other[2].loss < other[2].loss  # the same rows
    worst = apart(one, other)
    assert worst <= 1e-5, f"largest relative difference {worst:.1e}"
    assert np.allclose([r.grad_norm for r in one], [r.grad_norm for r in other], rtol=1e-3)
