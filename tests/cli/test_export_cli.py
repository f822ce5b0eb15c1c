"""The page of `ft export`, and what it says of formats that are not there."""

from __future__ import annotations

import json
from typing import Any

import pytest

from truetune import cli
from truetune.cli.export import lines

FOUND: dict[str, Any] = {
    "folder": "/runs/a b/exports/mlx",
    "model": "/models/base",
    "format": "mlx",
    "adapter": True,
    "parity": {"first": "torch", "second": "mlx_lm", "tokens": 124, "largest": 1.2e-6, "tolerance": 1e-4},
    "stored": None,
}


def test_what_to_type_next_can_be_typed() -> None:
    *_, checked, after = lines(FOUND)
    assert "mlx_lm computes what torch did" in checked and "124 tokens lie at most 1e-06 apart" in checked
    assert after.endswith("mlx_lm.generate --model /models/base --adapter-path '/runs/a b/exports/mlx' --prompt \"…\"")


def test_a_model_has_no_adapter_path_and_peft_nothing_to_type() -> None:
    assert "--adapter-path" not in lines(FOUND | {"adapter": False})[-1]
    assert "mlx_lm.generate" not in "\n".join(lines(FOUND | {"format": "peft"}))


def test_the_number_type_is_told() -> None:
    stored = {"dtype": "BF16", "largest": 0.031, "mean": 0.004}
    assert "BF16: at most 0.03 apart from float32, on average 0.004" in "\n".join(lines(FOUND | {"stored": stored}))


@pytest.mark.parametrize(("name", "code"), [("gguf", "export.later"), ("onnx", "export.format")])
def test_a_format_that_is_not_there(name: str, code: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["export", "starter", "--format", name, "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["code"], error["where"]) == (code, "format")
    assert "mlx, peft" in error["hint"]
