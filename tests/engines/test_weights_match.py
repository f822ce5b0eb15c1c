"""A model whose weights are not exactly those of its config is refused, never filled up with random numbers."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("torch")

from safetensors.torch import load_file, save_file

from truetune.engines.base import EngineSpec
from truetune.engines.torch import model, tiny
from truetune.errors import InputError


@pytest.fixture
def folder(tmp_path):
    return tiny.make(tmp_path / "model", "llama")


def refused(folder, **config):
    body = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(body))
    with pytest.raises(InputError) as error:
        model.load(EngineSpec(model=folder))
    assert error.value.exit_code == 3
    assert "\n" not in error.value.finding.message
    return error.value.finding


def test_layers_that_are_not_there(folder):
    finding = refused(folder, num_hidden_layers=3, layer_types=None)
    assert finding.code == "model.weights"
    assert "model.layers.2." in finding.message and "missing" in finding.message


def test_layers_too_many(folder):
    finding = refused(folder, num_hidden_layers=1, layer_types=None)
    assert finding.code == "model.weights"
    assert "model.layers.1." in finding.message and "no place" in finding.message


def test_a_shape_is_named(folder):
    finding = refused(folder, vocab_size=512)
    assert finding.code == "model.weights"
    assert "weight is (320, 32), not (512, 32)" in finding.message


@pytest.mark.parametrize("config", [{"model_type": "foo"}, {"num_attention_heads": 3}, {"hidden_act": "nothing"}])
def test_a_config_that_makes_no_model(folder, config):
    assert refused(folder, **config).code == "model.unloadable"


def test_a_spare_tensor_is_no_error(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.mtp.0.weight"] = tensors["model.norm.weight"].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model.load(EngineSpec(model=folder))
