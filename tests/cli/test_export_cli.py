"""The page of `ft export`, and what it says of formats that are not there."""

from __future__ import annotations

import json
from typing import Any

import pytest

from truetune import cli
from truetune.cli.export import lines, warning

STAGES = [
    {"name": "template", "state": "ok", "detail": "12 conversations have the same 345 ids"},
    {"name": "runtime", "state": "failed", "detail": "mlx_lm does not compute what torch did"},
    {"name": "quantisation", "state": "not checked", "detail": "it was not asked"},
]
FOUND: dict[str, Any] = {
    "folder": "/runs/a b/exports/mlx",
    "model": "/models/base",
    "format": "mlx",
    "parity": {"first": "torch", "second": "mlx_lm", "stages": STAGES},
    "forced": None,
}


def test_what_to_type_next_can_be_typed() -> None:
    first, *stages, after = lines(FOUND)
    assert first.split() == ["adapter", "/runs/a", "b/exports/mlx"]
    assert [line[:1] for line in stages] == ["✓", "✗", "·"] and "345 ids" in stages[0]
    assert after.endswith("mlx_lm.generate --model /models/base --adapter-path '/runs/a b/exports/mlx' --prompt \"…\"")


def test_a_model_has_no_adapter_path_and_peft_nothing_to_type() -> None:
    assert "--adapter-path" not in lines(FOUND | {"model": FOUND["folder"]})[-1]
    assert "mlx_lm.generate" not in "\n".join(lines(FOUND | {"format": "peft"}))
    assert lines(FOUND | {"format": "gguf"})[-1].endswith("llama-server -m '/runs/a b/exports/mlx'/model.gguf")
    assert lines(FOUND | {"format": "gguf-lora"})[0].startswith("adapter")


def test_what_was_forced_is_said_loudly() -> None:
    assert "FORCED" in warning(FOUND) and "runtime: mlx_lm does not compute" in warning(FOUND)


def test_a_format_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["export", "starter", "--format", "onnx", "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["code"], error["where"]) == ("export.format", "format")
    assert "mlx, peft" in error["hint"]
