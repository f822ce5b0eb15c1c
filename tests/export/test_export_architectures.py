"""Every architecture in every target's own program: the same ids, the same distributions, the same greedy answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

import small_adapter

import truetune as ft
from truetune.engines import installed
from truetune.errors import InputError
from truetune.export import stages
from truetune.export.bounds import GREEDY

ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "gpt2")
LACKS = ("gpt2",)
"""What mlx_lm does not compute as transformers does."""


def told(found: dict[str, Any], name: str) -> dict[str, Any]:
    return next(one for one in found["parity"]["stages"] if one["name"] == name)


def hold(found: dict[str, Any], program: str) -> None:
    """The gate let it pass, and has asked what it promises to ask."""
    states = {one["name"]: one["state"] for one in found["parity"]["stages"]}
    spoken = [states[name] for name in (stages.TEMPLATE, stages.TOKENIZER, stages.ENDS, stages.RUNTIME)]
    assert spoken == ["ok"] * 4 and found["parity"]["second"] == program
    assert told(found, stages.TEMPLATE)["conversations"] == 4 and told(found, stages.ENDS)["tried"] >= 1
    computed = told(found, stages.RUNTIME)
    assert computed["greedy"] == stages.ANSWERED and computed["top1"] > 0.99
    assert computed["tokens"] >= 128 + stages.ANSWERED * GREEDY and computed["largest"] <= 1e-4
    assert found["effect"]["kl"] > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_target_does_what_was_trained(tmp_path: Path, architecture: str) -> None:
    adapter = small_adapter.make(tmp_path, architecture)
    hold(ft.export(adapter, format="peft", out=tmp_path / "peft"), "PEFT")
    hold(ft.export(adapter, format="merged", out=tmp_path / "merged"), "transformers")
    if not installed("mlx"):
        return
    if architecture in LACKS:
        with pytest.raises(InputError) as caught:
            ft.export(adapter, format="mlx", out=tmp_path / "mlx")
        assert caught.value.code == "export.lacks"
        return
    hold(ft.export(adapter, format="mlx", out=tmp_path / "mlx"), "mlx_lm")
