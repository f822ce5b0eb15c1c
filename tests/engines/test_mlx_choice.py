"""Which engine computes: as asked, MLX on Apple silicon, torch for what MLX lacks."""

from __future__ import annotations

import json
import platform
import sys

import pytest

pytest.importorskip("mlx_lm", reason="MLX is not installed")

from truetune import engines
from truetune.config import Config
from truetune.errors import ResourceError
from truetune.models.source import STARTER
from truetune.train.session import gather


@pytest.fixture
def apple(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")


@pytest.fixture
def strange(tmp_path):
    """A model folder of a kind that mlx_lm computes otherwise than transformers."""
    body = json.loads((STARTER / "config.json").read_text()) | {"hidden_act": "relu"}
    (tmp_path / "config.json").write_text(json.dumps(body))
    return tmp_path


def test_as_asked():
    assert engines.choose("torch", STARTER).name == "torch"
    assert engines.choose("mlx", STARTER) == engines.Chosen("mlx", "as asked")


def test_auto_is_torch_elsewhere(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    assert engines.choose("auto", STARTER).name == "torch"


def test_auto_is_mlx_on_apple_silicon(apple):
    chosen = engines.choose("auto", STARTER)
    assert (chosen.name, chosen.warning) == ("mlx", "")


@pytest.mark.parametrize("wish", ["auto", "mlx"])
def test_torch_steps_in_and_one_line_says_so(apple, strange, wish):
    chosen = engines.choose(wish, strange)
    assert chosen.name == "torch"
    assert chosen.warning == "MLX lacks llama models with the activation relu, so torch computes"


@pytest.mark.parametrize("settings", [{"rope_parameters": 5}, {"layer_types": 3, "model_type": "qwen2"}, {"n": {}}])
def test_a_broken_config_is_left_to_torch(strange, settings):
    body = json.loads((strange / "config.json").read_text()) | settings | {"num_hidden_layers": "four"}
    (strange / "config.json").write_text(json.dumps(body))
    assert engines.choose("mlx", strange).name == "torch"


def test_a_missing_library_is_said(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("truetune.engines.mlx")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mlx", None)
    monkeypatch.setitem(sys.modules, "mlx.core", None)
    with pytest.raises(ResourceError) as error:
        engines.choose("mlx", STARTER)
    assert error.value.finding.code == "engine.not_installed"
    assert "truetune[mlx]" in error.value.finding.hint


def test_a_session_keeps_the_choice(tmp_path):
    rows = [{"prompt": f"Question {i}?", "completion": f"Answer {i}."} for i in range(30)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = Config.model_validate({"model": "starter", "data": "rows.jsonl", "resources": {"engine": "mlx"}})
    resolved = gather(config, tmp_path).resolved
    assert resolved["config"]["resources"]["engine"] == "mlx"
    assert resolved["config"]["model"]["dtype"] == "float32"
