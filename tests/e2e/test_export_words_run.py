"""`ft export` says what it does and nothing else: no remark of a library, and hints that are about exports."""

from __future__ import annotations

from pathlib import Path

import pytest
from real_ft import Ft

pytestmark = pytest.mark.slow


def trained(ft: Ft, method: str) -> None:
    ft.rows(12)
    ft.config(method=method, training={"max_steps": 1}, evaluation={"samples": 0}, resources={"memory": "3GB"})
    said = ft("train", "--json")
    assert said.code == 0, said.err


def test_libraries_are_silent(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    ft = Ft(tmp_path)
    trained(ft, "lora")
    said = ft("export", "last", "--format", "merged")
    assert said.code == 0, said.err
    assert "kernels" not in said.err and "Warning" not in said.err


def test_virtual_tokens_are_no_adapter_of_mlx_lm(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    pytest.importorskip("mlx_lm")
    ft = Ft(tmp_path)
    trained(ft, "prompt")
    error = ft("export", "last", "--format", "mlx", "--json").document["error"]
    assert error["code"] == "export.lacks" and "--format peft" in error["hint"]
