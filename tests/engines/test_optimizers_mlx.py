"""MLX's optimizers learn what torch's learn, and go on from a checkpoint."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("mlx_lm", reason="MLX is not installed")

import mlx.core as mx
from safetensors.numpy import load_file, save_file

from truetune.engines.base import EngineSpec, Method, Optimizer
from truetune.engines.mlx import optimizers
from truetune.engines.mlx.engine import open_engine
from truetune.engines.optimizers import MLX
from truetune.engines.torch.engine import TorchEngine
from truetune.errors import InputError
from truetune.testing import examples
from truetune.testing.contract import LORA

KINDS = ("adamw", *optimizers.RULES)
RATES = {"adamw": 5e-3, "lion": 3e-4, "adafactor": 5e-3, "sgd": 0.3}
METHODS = {"lora": LORA, "full": Method(type="full")}
STEPS = 20


def spec(folder, kind, method="lora", decay=0.1):
    settings = {"method": METHODS[method], "optimizer": Optimizer(type=kind, weight_decay=decay)}
    return replace(EngineSpec(model=folder, token_budget=128), **settings)


def curve(engine, steps=range(STEPS), sabotage=""):
    losses = []
    for step in steps:
        if sabotage == "forgets":
            engine.optimizer = optimizers.of(engine.spec.optimizer, engine.parameters, {})
        rate = RATES[engine.spec.optimizer.type] * (1.3 if sabotage == "other rate" else 1.0)
        losses.append(engine.step(engine.prepare(examples(8, seed=step % 4)), rate).loss)
    return losses


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", sorted(optimizers.RULES))
def test_the_curves_agree(models, kind, method):
    folder = models("llama")
    ours, theirs = curve(open_engine(spec(folder, kind, method))), curve(TorchEngine(spec(folder, kind, method)))
    assert theirs[-1] < 0.99 * theirs[0]
    worst = max(abs(a - b) / b for a, b in zip(ours, theirs, strict=True))
    assert worst < 1e-5, f"largest relative difference {worst:.1e}"


@pytest.mark.slow
@pytest.mark.parametrize("sabotage", ["forgets", "other rate", "no decay"])
@pytest.mark.parametrize("kind", sorted(optimizers.RULES))
def test_the_comparison_notices(models, kind, sabotage):
    folder = models("llama")
    decay = 0.0 if sabotage == "no decay" else 0.1
    ours = curve(open_engine(spec(folder, kind, "full", decay)), sabotage=sabotage)
    assert not np.allclose(ours, curve(TorchEngine(spec(folder, kind, "full"))), rtol=1e-5, atol=0)


def test_the_table_says_what_there_is():
    assert {*MLX} == {"adamw", *optimizers.RULES}


def test_vectors_do_not_decay():
    for kind in optimizers.RULES:
        settings = Optimizer(type=kind, weight_decay=0.5)
        start = {"matrix": mx.ones((2, 3)), "vector": mx.ones((3,))}
        after = optimizers.of(settings, start, {}).step(start, {n: mx.zeros(v.shape) for n, v in start.items()}, 0.1)
        assert np.allclose(np.array(after["matrix"]), 0.95) and np.allclose(np.array(after["vector"]), 1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_restored_optimizer_goes_on_bit_by_bit(models, tmp_path, kind):
    first, second = (open_engine(spec(models("llama"), kind, "full")) for _ in range(2))
    curve(first, range(3))
    first.save(tmp_path)
    second.restore(tmp_path)
    assert curve(second, range(3, 6)) == curve(first, range(3, 6))


def drop(tensors):
    tensors.pop(next(key for key in sorted(tensors) if key != "step"))


def reshape(tensors):
    key = next(key for key in sorted(tensors) if key != "step")
    tensors[key] = np.zeros(1, np.float32)


def no_count(tensors):
    tensors.pop("step")


@pytest.mark.parametrize("damage", [drop, reshape, no_count])
@pytest.mark.parametrize("kind", KINDS)
def test_moments_that_do_not_fit_are_refused(models, tmp_path, kind, damage):
    first = open_engine(spec(models("llama"), kind))
    curve(first, range(1))
    first.save(tmp_path)
    tensors = load_file(tmp_path / "optimizer.safetensors")
    damage(tensors)
    save_file(tensors, tmp_path / "optimizer.safetensors")
    with pytest.raises(InputError) as error:
        open_engine(spec(models("llama"), kind)).restore(tmp_path)
    assert error.value.finding.code == "checkpoint.damaged"
