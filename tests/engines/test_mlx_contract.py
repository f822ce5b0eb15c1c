"""The MLX engine under the contract suite, for every model type that it computes as transformers does."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("mlx_lm", reason="MLX is not installed")


from truetune.engines.mlx.engine import open_engine
from truetune.testing import EngineContract

NAMES = ("llama", "mistral-window", "qwen2", "qwen3", "gemma2", "gemma3", "phi3")
EVERY = [name if name == "gemma2" else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]


class TestMlx(EngineContract):
    """Every promise for the main architectures; the others are in the slow suite."""

    def open(self, spec):
        return open_engine(spec)

    @pytest.fixture(params=EVERY)
    def folder(self, request, models):
        return models(request.param)
