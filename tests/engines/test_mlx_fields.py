"""Every field that an engine is told: MLX does it, or says that it lacks it and torch steps in. None is passed over."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

pytest.importorskip("torch")
pytest.importorskip("mlx_lm", reason="MLX is not installed")

import mlx.core as mx

from truetune import engines
from truetune.config import Config
from truetune.engines.base import EngineSpec, Method, Objective, Optimizer, OutOfMemory
from truetune.engines.mlx import device, family, state
from truetune.engines.mlx.engine import open_engine
from truetune.errors import UsageError
from truetune.models.source import STARTER
from truetune.testing.contract import LORA, pairs
from truetune.train.resolve import method
from truetune.train.session import torch_only

DOES = {
    Method: {
        "type": "dora",
        "r": 5,
        "alpha": 9,
        "dropout": 0.4,
        "target_modules": ("q_proj",),
        "init": "pissa",
        "lora_plus": 3.0,
        "modules_to_save": ("norm",),
    },
    Optimizer: {
        "type": "lion",
        "weight_decay": 0.5,
        "max_grad_norm": 1e-3,
        "beta1": 0.5,
        "beta2": 0.5,
        "epsilon": 1e-2,
    },
    EngineSpec: {
        "objective": Objective("orpo"),
        "dtype": "bfloat16",
        "seed": 7,
        "token_budget": 1,
        "base": "mine",
        "revision": "v1",
    },
}
"""Another value, which must change what is learned, how a step is cut or what the file says."""
LACKS = {
    Method: {
        "bits": (Method(bits=4), "method.bits"),
        "frozen_layers": (Method(type="full", frozen_layers=1), "method.frozen_layers"),
        "virtual_tokens": (Method(type="prompt", virtual_tokens=3), "method prompt"),
        "encoder_hidden": (Method(type="prefix", encoder_hidden=3), "method prefix"),
    },
    EngineSpec: {
        "new_tokens": ((5,), "model.new_tokens"),
        "neftune_alpha": (5.0, "training.neftune_alpha"),
        "ema": (0.9, "training.ema"),
        "offload": (True, "offloaded activations"),
        "compiled": (True, "compiled layers"),
    },
    Optimizer: {},
}
"""A value that MLX lacks, and what it calls it."""
BELOW = {"model", "adapter", "device", "memory", "gradient_checkpointing"}
"""Shown in tests of their own."""
WRITTEN = {
    "method.frozen_layers": (
        {"method": {"type": "full", "frozen_layers": 1}},
        Method(type="full", frozen_layers=1),
        {},
    ),
    "model.new_tokens": ({"model": {"path": "starter", "new_tokens": ["<a>"]}}, LORA, {"new_tokens": (5,)}),
    "training.neftune_alpha": ({"training": {"neftune_alpha": 5}}, LORA, {"neftune_alpha": 5.0}),
    "training.ema": ({"training": {"ema": 0.9}}, LORA, {"ema": 0.9}),
    "optimizer muon": ({"training": {"optimizer": "muon"}}, LORA, {"optimizer": Optimizer("muon")}),
    "nothing": (
        {"method": {"init": "pissa", "lora_plus": 2, "modules_to_save": ["norm"], "dropout": 0}},
        Method(init="pissa", lora_plus=2.0, modules_to_save=("norm",)),
        {},
    ),
}


def spec(folder, **changes):
    return replace(EngineSpec(model=folder, method=LORA, token_budget=128), **changes)


def changed(folder, kind, name, value):
    """A training with another value in one field."""
    if kind is EngineSpec:
        return spec(folder, **{name: value})
    before = LORA if kind is Method else Optimizer()
    made = value if isinstance(value, Method) else replace(before, **{name: value})
    return spec(folder, **{kind.__name__.lower(): made})


def trace(made):
    """What a training learns in three steps, how it cuts them, and what its file says."""
    engine = open_engine(made)
    plan = engine.prepare(pairs(4))
    losses = [engine.step(plan, 1e-2).loss for _ in range(3)]
    return losses, plan.micro_batches, engine.adapted.config()


def test_every_field_is_known_here():
    for kind in DOES:
        known = [*DOES[kind], *LACKS[kind], *(BELOW if kind is EngineSpec else ())]
        known += ["method", "optimizer"] if kind is EngineSpec else []
        assert sorted(known) == sorted(field.name for field in fields(kind))


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in DOES.items() for name in names])
def test_mlx_does_it(llama, kind, name):
    made = changed(llama, kind, name, DOES[kind][name])
    assert family.unserved(made) == []
    part = slice(2, 3) if name in ("base", "revision") else slice(0, 2)
    assert trace(made)[part] != trace(spec(llama))[part]


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in LACKS.items() for name in names])
def test_mlx_lacks_it_and_says_so(llama, kind, name):
    value, said = LACKS[kind][name]
    made = changed(llama, kind, name, value)
    assert family.unserved(made) == [said]
    with pytest.raises(UsageError) as error:
        open_engine(made)
    assert (error.value.finding.code, error.value.finding.message) == ("engine.lacks", f"MLX lacks {said}")


@pytest.mark.parametrize("said", WRITTEN)
def test_torch_steps_in_for_just_that(llama, said):
    """What train.yml asks for is what the engine would refuse; in one line."""
    body, wanted, more = WRITTEN[said]
    config = Config.model_validate({"model": "starter", "data": "rows.jsonl"} | body)
    lacking = [] if said == "nothing" else [said]
    assert [*torch_only(config)] == family.unserved(spec(llama, method=wanted, **more)) == lacking
    chosen = engines.choose("mlx", STARTER, method(config), "sft", lacking)
    assert chosen.warning == (f"MLX lacks {said}, so torch computes" if lacking else "")


@pytest.mark.parametrize("name", ["qlora", "prompt", "prefix", "ptuning", "ptuning_v2", "ia3", "mine"])
def test_methods_that_stay_with_torch(llama, name):
    assert engines.choose("mlx", STARTER, name).warning == f"MLX lacks method {name}, so torch computes"
    assert family.unserved(spec(llama, method=Method(type=name))) == [f"method {name}"]


def test_the_model_and_the_adapter(models, tmp_path):
    first = open_engine(spec(models("llama")))
    first.step(first.prepare(pairs(4)), 1e-2)
    first.export(tmp_path)
    assert (
        trace(spec(models("llama"), adapter=tmp_path)) != trace(spec(models("llama"))) != trace(spec(models("qwen2")))
    )


def test_a_device_that_is_not_there_is_said():
    assert device.choose("cpu").device == "cpu"
    if not mx.metal.is_available():
        assert "mps" in device.choose("mps").warning and "cuda" in device.choose("cuda").warning


def test_the_memory_of_a_gpu_is_bounded_by_the_wish():
    assert device.most("mps", 1000) == 1000
    assert device.most("mps", 0) == device.most("cpu", 1000) == device.limit() > 1000


def test_after_an_overflow_the_peak_is_counted_anew(llama):
    """Else no smaller micro-batch would ever do."""
    engine = open_engine(spec(llama))
    plan, allowed = engine.prepare(pairs(4)), engine.most
    engine.most = 1
    with pytest.raises(OutOfMemory):
        engine.step(plan, 1e-2)
    told = engine.usage().peak
    assert mx.get_peak_memory() < told
    engine.most = allowed
    engine.step(plan, 1e-2)
    assert engine.usage().peak >= told


def test_gradient_checkpointing_keeps_less(models):
    """Of the same step in a deep model."""
    folder, peaks = models("llama", num_hidden_layers=12), []
    for saving in (False, True):
        engine = open_engine(spec(folder, gradient_checkpointing=saving, token_budget=2048))
        engine.step(engine.prepare(pairs(24)), 1e-2)
        peaks.append(engine.usage().peak)
        engine.close()
    assert peaks[1] < 0.8 * peaks[0]


def test_the_file_of_a_checkpoint_is_that_of_its_method(llama):
    files = [open_engine(spec(llama, method=each)).adapted.file for each in (LORA, Method(type="full"))]
    assert files == ["adapter_model.safetensors", state.FULL]
