"""Adapters go to mlx_lm and come back as they were; models and adapters say the same in both engines."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("mlx_lm", reason="MLX is not installed")

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers, load_adapters
from mlx_lm.utils import load_model
from safetensors.numpy import load_file

from truetune import engines
from truetune.data.example import Example
from truetune.engines.base import EngineSpec, Method
from truetune.engines.decoder import DecoderSpec
from truetune.engines.mlx.engine import open_engine
from truetune.engines.mlx.exchange import from_mlx_lm, to_mlx_lm
from truetune.engines.torch import tiny
from truetune.errors import InputError
from truetune.testing import examples

IDS = np.random.default_rng(0).integers(0, tiny.VOCAB, 24)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.make(tmp_path_factory.mktemp("model") / "llama", "llama")


def trained(folder, place, **method) -> tuple[Path, float]:
    """A trained adapter in PEFT's layout, and the loss of a text under it."""
    engine = open_engine(EngineSpec(model=folder, method=Method(**({"r": 3, "alpha": 12, "dropout": 0.1} | method))))
    for step in range(3):
        engine.step(engine.prepare(examples(seed=step)), 5e-2)
    place.mkdir()
    engine.export(place)
    return place, engine.loss(engine.prepare(examples(seed=9))).loss


def scores(engine: str, folder: Path, place: Path | None) -> np.ndarray:
    """The log-probabilities of `IDS` after those before them, with an adapter in PEFT's layout."""
    decoder = engines.open_decoder(engine, DecoderSpec(folder))
    if place:
        decoder.load("tuned", place)
    (found,) = decoder.score([Example(IDS.astype(np.int32), np.ones(len(IDS), np.float32), 0)], place and "tuned")
    decoder.close()
    return found[1:]


KINDS = [
    {},
    {"target_modules": r"model\.layers\.0\..*_proj"},
    {"type": "dora"},
    {"type": "rslora"},
    {"type": "dora", "init": "pissa", "dropout": 0.0},
]


@pytest.mark.parametrize("method", [*KINDS, {"target_modules": ("q_proj", "v_proj")}], ids=str)
def test_there_and_back(folder, tmp_path, method):
    here, _ = trained(folder, tmp_path / "peft", **method)
    there, back = tmp_path / "mlx", tmp_path / "back"
    there.mkdir(), back.mkdir()
    to_mlx_lm(here, there)
    from_mlx_lm(there, back)
    assert sorted(path.name for path in back.iterdir()) == sorted(path.name for path in here.iterdir())
    assert json.loads((back / "adapter_config.json").read_text()) == json.loads(
        (here / "adapter_config.json").read_text()
    )
    one, other = (load_file(place / "adapter_model.safetensors") for place in (here, back))
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("method", KINDS, ids=str)
def test_mlx_lm_loads_what_goes_there(folder, tmp_path, method):
    """Its logits are ours; without the adapter they are not."""
    here, _ = trained(folder, tmp_path / "peft", **method)
    (tmp_path / "mlx").mkdir()
    to_mlx_lm(here, tmp_path / "mlx")
    model, _ = load_model(folder)
    plain = np.array(model(mx.array(IDS[None])))
    model = load_adapters(model, tmp_path / "mlx")
    model.eval()
    theirs = np.array(model(mx.array(IDS[None])))[0]
    logs = theirs - np.logaddexp.reduce(theirs, axis=-1, keepdims=True)
    expected = logs[np.arange(23), IDS[1:]]
    ours = scores("mlx", folder, here)
    assert np.allclose(ours, expected, atol=1e-5)
    assert np.abs(theirs - plain).max() > 1e-2


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_an_adapter_of_mlx_lm_comes_here(folder, tmp_path, kind):
    """As its trainer writes it: names below a layer, the last layers only."""
    model, _ = load_model(folder)
    model.freeze()
    settings = {"rank": 4, "scale": 2.5, "dropout": 0.0, "keys": ["self_attn.q_proj", "mlp.up_proj"]}
    linear_to_lora_layers(model, 1, settings, use_dora=kind == "dora")
    model.apply_to_modules(
        lambda name, layer: "lora_b" in layer and layer.update({"lora_b": mx.random.normal(layer.lora_b.shape) * 0.3})
    )
    weights = dict(tree_flatten(model.trainable_parameters()))
    (tmp_path / "mlx").mkdir(), (tmp_path / "peft").mkdir()
    mx.save_safetensors(str(tmp_path / "mlx" / "adapters.safetensors"), weights)
    config = {"fine_tune_type": kind, "num_layers": 1, "lora_parameters": settings}
    (tmp_path / "mlx" / "adapter_config.json").write_text(json.dumps(config))
    from_mlx_lm(tmp_path / "mlx", tmp_path / "peft", base=str(folder))
    theirs = np.array(model(mx.array(IDS[None])))[0]
    logs = theirs - np.logaddexp.reduce(theirs, axis=-1, keepdims=True)
    for engine in ("mlx", "torch"):
        ours = scores(engine, folder, tmp_path / "peft")
        assert np.allclose(ours, logs[np.arange(23), IDS[1:]], atol=1e-5)


def test_both_engines_say_the_same(folder, tmp_path):
    here, _ = trained(folder, tmp_path / "peft")
    plain, tuned = ([scores(engine, folder, place) for engine in ("torch", "mlx")] for place in (None, here))
    for one, other in (plain, tuned):
        assert np.allclose(one, other, rtol=1e-4, atol=1e-4)
    assert np.abs(plain[0] - tuned[0]).max() > 1e-2


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({"fine_tune_type": "dora", "lora_parameters": {"rank": 3, "scale": 1.0}}, "adapter.unsupported"),
        ({"lora_parameters": {"rank": 3, "alpha": 6}}, "adapter.damaged"),
        ([], "adapter.damaged"),
        (None, "adapter.missing"),
    ],
)
def test_what_cannot_come_here_is_said(folder, tmp_path, config, code):
    here, _ = trained(folder, tmp_path / "peft", target_modules=("q_proj",))
    (tmp_path / "mlx").mkdir()
    to_mlx_lm(here, tmp_path / "mlx")
    path = tmp_path / "mlx" / "adapter_config.json"
    path.unlink() if config is None else path.write_text(json.dumps(config))
    with pytest.raises(InputError) as error:
        from_mlx_lm(tmp_path / "mlx", tmp_path)
    assert error.value.finding.code == code


def test_what_mlx_lm_has_no_place_for_is_said(folder, tmp_path):
    here, _ = trained(folder, tmp_path / "peft", modules_to_save=("norm",))
    with pytest.raises(InputError) as error:
        to_mlx_lm(here, tmp_path)
    assert error.value.finding.code == "adapter.unsupported" and "norm" in error.value.finding.message
