"""Hostile model folders and the MLX engine: refused with the codes of every engine, or used without what is hostile."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hostile import CASES, Case, code, copy, edit

pytest.importorskip("torch")
pytest.importorskip("mlx_lm", reason="MLX is not installed")

import truetune as ft
from truetune.engines import module
from truetune.engines.base import EngineSpec
from truetune.engines.decoder import DecoderSpec
from truetune.engines.mlx.engine import open_engine
from truetune.errors import TrueTuneError

NUMBERS = {"layers-without-end": "model.unloadable", "sizes-beyond-any": "model.unloadable"}
"""Facts that a training asks for before any engine, and what the engine itself says of them."""
SPEAKING = ("data.template", "model.template", "model.template_name", "model.bad_tokenizer")
"""Of tokenizers and templates, which no engine reads."""


def outcome(work: Any) -> str | None:
    """The code of the error, None where there is none."""
    try:
        work()
    except TrueTuneError as error:
        return error.code
    return None


@pytest.fixture
def canary(tmp_path: Path) -> Any:
    yield tmp_path / "canary"
    assert not list(tmp_path.rglob("canary")) and "mine" not in sys.modules


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_engine_refuses_it(case: Case, tmp_path: Path, canary: Path) -> None:
    folder = copy(tmp_path / "model")
    case.change(folder, canary)
    expected = NUMBERS.get(case.name, None if case.code in SPEAKING else case.code)
    for opened in (
        lambda: open_engine(EngineSpec(model=folder)).close(),
        lambda: module("mlx").open_decoder(DecoderSpec(folder)).close(),
    ):
        assert outcome(opened) == expected


@pytest.mark.slow
def test_code_of_a_folder_is_named(tmp_path: Path) -> None:
    """What the MLX engine takes no notice of stands in a warning of the run."""
    folder = copy(tmp_path / "model")
    code("modeling_mine.py", "kernel.so")(folder, tmp_path / "canary")
    edit("config.json", auto_map={"AutoModel": "modeling_mine.Mine"})(folder, tmp_path)
    assert module("mlx").ignored(folder) == ["kernel.so", "modeling_mine.py"]
    rows = [{"prompt": f"What is {number}?", "completion": f"It is {number}."} for number in range(24)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"model": str(folder), "data": str(tmp_path / "rows.jsonl"), "resources": {"engine": "mlx"}}
    (said,) = [text for text in ft.preview(settings)["warnings"] if "not used" in text]
    assert said.endswith("kernel.so, modeling_mine.py")
    assert not (tmp_path / "canary").exists()
