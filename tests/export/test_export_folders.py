"""Exports: what was trained, as mlx_lm and PEFT load it; what computes otherwise is not put in place."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("mlx_lm", reason="MLX is not installed")

import numpy as np
from safetensors.numpy import load_file, save_file

import truetune as ft
from truetune.engines.base import EngineSpec, Method
from truetune.engines.mlx import exchange
from truetune.engines.mlx.engine import open_engine
from truetune.engines.torch import tiny
from truetune.errors import TrueTuneError
from truetune.models.source import STARTER
from truetune.testing import examples

FILE = "adapter_model.safetensors"


SPOKEN = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def speaking(folder: Path) -> Path:
    """With the starter's tokenizer and template."""
    for name in SPOKEN:
        shutil.copyfile(STARTER / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return speaking(tiny.make(tmp_path_factory.mktemp("model") / "llama", "llama"))


@pytest.fixture(scope="module")
def adapter(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that changes every answer."""
    folder = tmp_path_factory.mktemp("trained") / "adapter"
    folder.mkdir()
    engine = open_engine(EngineSpec(model=model, method=Method(r=3, alpha=10)))
    for seed in range(2):
        engine.step(engine.prepare(examples(seed=seed)), 5e-2)
    engine.export(folder)
    return speaking(folder)


@pytest.fixture
def windowed(tmp_path: Path) -> Path:
    """A model with a sliding window, which mlx_lm's class of it has not."""
    return speaking(tiny.make(tmp_path / "windowed", "mistral-window"))


def refused(**values: Any) -> str:
    with pytest.raises(TrueTuneError) as error:
        ft.export(**values)
    assert error.value.finding.hint
    return f"{error.value.exit_code} {error.value.finding.code}"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_to_mlx_lm_and_back(adapter: Path, model: Path, tmp_path: Path) -> None:
    there, back = tmp_path / "mlx", tmp_path / "back"
    found = ft.export(adapter, format="mlx", out=there)
    beside = {*SPOKEN, "generation_config.json", "report.json", "README.md"}
    assert names(there) == beside | {"adapters.safetensors", "adapter_config.json"}
    assert (found["folder"], found["parity"]["second"], found["parity"]["ok"]) == (str(there), "mlx_lm", True)
    assert 0 < found["parity"]["largest"] <= found["parity"]["tolerance"]
    assert found["stored"] is None and found["forced"] is None
    assert found.items() >= json.loads((there / "report.json").read_bytes()).items()
    assert found["base"] == {"name": str(model), "revision": None}

    ft.export(there, format="peft", out=back)
    assert names(back) == beside | {FILE, "adapter_config.json"}
    one, other = load_file(adapter / FILE), load_file(back / FILE)
    assert one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)
    configs = [json.loads((place / "adapter_config.json").read_text()) for place in (adapter, back)]
    assert configs[0] == configs[1]


def test_to_peft(adapter: Path, tmp_path: Path) -> None:
    found = ft.export(adapter, format="peft", out=tmp_path / "peft")
    assert (found["parity"]["second"], found["parity"]["ok"]) == ("PEFT", True)
    assert (tmp_path / "peft" / FILE).read_bytes() == (adapter / FILE).read_bytes()


def test_a_model_goes_as_it_is(model: Path, tmp_path: Path) -> None:
    found = ft.export(model, format="mlx", out=tmp_path / "model")
    assert not found["adapter"] and found["parity"]["ok"]
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    assert (tmp_path / "model" / "chat_template.jinja").is_file()


def test_the_number_type_of_the_stored_weights_is_told(model: Path, tmp_path: Path) -> None:
    """mlx_lm computes in it by itself, which is not what was trained to the last digit."""
    place = shutil.copytree(model, tmp_path / "half")
    tensors = {name: value.astype(np.float16) for name, value in load_file(place / "model.safetensors").items()}
    save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
    found = ft.export(place, format="mlx", out=tmp_path / "out")
    assert found["parity"]["ok"] and found["stored"]["dtype"] == "float16"
    assert found["stored"]["largest"] > 10 * found["parity"]["largest"]


def test_what_computes_otherwise_is_not_put_in_place(windowed: Path, tmp_path: Path) -> None:
    place = tmp_path / "elsewhere" / "out"
    assert refused(subject=windowed, format="mlx", out=place) == "1 export.parity"
    assert not place.exists() and not list(place.parent.iterdir())


def test_a_wrong_scale_is_noticed(adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate itself: an export that is one per cent off."""
    written = exchange.adapter.write_config

    def sabotaged(folder: Path, body: dict[str, Any]) -> None:
        body["lora_parameters"]["scale"] *= 1.01
        written(folder, body)

    monkeypatch.setattr(exchange.adapter, "write_config", sabotaged)
    assert refused(subject=adapter, format="mlx", out=tmp_path / "out") == "1 export.parity"
    assert not (tmp_path / "out").exists()


def test_a_model_that_mlx_lacks(windowed: Path, tmp_path: Path) -> None:
    body = json.loads((windowed / "config.json").read_text()) | {"hidden_act": "gelu"}
    (windowed / "config.json").write_text(json.dumps(body))
    assert refused(subject=windowed, format="mlx", out=tmp_path / "out") == "3 export.lacks"


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"format": "hub"}, "2 export.repo"),
        ({"format": "onnx"}, "2 export.format"),
        ({"format": "mlx"}, "2 export.no_out"),
        ({"format": "mlx", "out": "."}, "2 export.exists"),
        ({"format": "peft", "out": "new"}, "2 export.no_adapter"),
        ({"format": "mlx", "out": "new", "base": "starter"}, "2 export.base"),
    ],
)
def test_what_is_asked_wrongly(
    values: dict[str, Any], code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").touch()
    assert refused(subject="starter", **values) == code
    assert names(tmp_path) == {"mine"}


def strange(adapter: Path, folder: Path, **config: Any) -> Path:
    """The adapter in mlx_lm's layout, with another configuration."""
    ft.export(adapter, format="mlx", out=folder)
    body = json.loads((folder / "adapter_config.json").read_text())
    body.pop("peft")
    (folder / "adapter_config.json").write_text(json.dumps(body | config))
    return folder


def test_of_mlx_lm_alone(adapter: Path, model: Path, tmp_path: Path) -> None:
    """As its trainer writes it: it names its model, or must be told."""
    place = strange(adapter, tmp_path / "mlx")
    assert refused(subject=place, format="peft", out=tmp_path / "one") == "2 export.no_base"
    assert refused(subject=place, format="mlx", out=tmp_path / "one", base=str(model)) == "2 export.same"
    assert ft.export(place, format="peft", out=tmp_path / "one", base=str(model))["parity"]["ok"]
    strange(adapter, tmp_path / "named", model=str(model))
    assert ft.export(tmp_path / "named", format="peft", out=tmp_path / "two")["base"]["name"] == str(model)


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({"lora_parameters": {"rank": 4, "scale": 1.0, "dropout": 0.0}}, "3 adapter.mismatch"),
        ({"peft": {"auto_mapping": {"parent_library": "mine"}, "r": 3, "lora_alpha": 10}}, "3 adapter.custom_code"),
        ({"lora_parameters": {"rank": "x"}}, "3 adapter.damaged"),
        ({"num_layers": "all"}, "3 adapter.mismatch"),
    ],
)
def test_a_strange_adapter(adapter: Path, model: Path, tmp_path: Path, config: dict[str, Any], code: str) -> None:
    if "peft" in config:
        config = {"peft": json.loads((adapter / "adapter_config.json").read_text()) | config["peft"]}
    place = strange(adapter, tmp_path / "mlx", model=str(model), **config)
    assert refused(subject=place, format="peft", out=tmp_path / "out") == code
    assert not (tmp_path / "out").exists()


def test_a_tensor_that_is_lost(adapter: Path, model: Path, tmp_path: Path) -> None:
    """mlx_lm itself would begin that layer anew, and say nothing."""
    place = strange(adapter, tmp_path / "mlx", model=str(model))
    tensors = load_file(place / "adapters.safetensors")
    tensors.pop(next(name for name in tensors if name.endswith("lora_b")))
    save_file(tensors, place / "adapters.safetensors")
    assert refused(subject=place, format="peft", out=tmp_path / "out").startswith("3 adapter.")
