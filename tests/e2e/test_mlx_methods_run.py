"""LoRA's family on MLX through the real CLI: trained, measured and asked by MLX, and on its way out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from real_ft import SECTIONS, Ft

pytest.importorskip("torch")
pytest.importorskip("mlx_lm", reason="MLX is not installed")
pytestmark = pytest.mark.slow

KINDS = {
    "dora": {"type": "dora", "r": 4, "lora_plus": 2},
    "modules": {"r": 4, "init": "pissa", "dropout": 0, "modules_to_save": ["embed_tokens", "model.norm"]},
}


@pytest.mark.parametrize("kind", KINDS)
def test_from_train_yml_to_the_way_out(tmp_path: Path, kind: str) -> None:
    ft = Ft(tmp_path)
    ft.rows(32)
    ft.config(**SECTIONS | {"method": KINDS[kind], "resources": {"memory": "3GB", "engine": "mlx"}})
    said = ft("train", "--json")
    assert said.code == 0, said.err
    assert "so torch computes" not in said.err
    train, held = (json.loads((ft.run() / "receipts" / f"{name}.json").read_text()) for name in ("train", "eval"))
    assert train["engine"]["engine"] == "mlx"
    assert train["changed_tensors"]["changed"] == train["changed_tensors"]["of"] > 0
    assert held["tuned"]["loss"] < held["base"]["loss"]

    found = ft("evaluate", "last", "--no-generate", "--json")
    assert found.code == 0, found.err
    assert found.document["settings"]["engine"] == "mlx"
    for side in ("base", "tuned"):
        assert found.document["figures"]["loss"][side]["value"] == pytest.approx(held[side]["loss"], rel=1e-5)

    merged = ft("export", "last", "--format", "merged", "--json")
    assert merged.code == 0, merged.err
    assert merged.document["parity"]["first"] == "mlx"
    there = ft("export", "last", "--format", "mlx", "--json")
    if kind == "dora":
        assert there.code == 0 and there.document["parity"]["second"] == "mlx_lm", there.err
    else:
        assert there.code != 0 and "adapter.unsupported" in there.out + there.err
    assert ft("receipt", "verify", "last").code == 0


def test_torch_steps_in_with_one_line(tmp_path: Path) -> None:
    ft = Ft(tmp_path)
    ft.rows(32)
    body = {"model": {"path": "starter", "new_tokens": ["<code>"]}, "resources": {"memory": "3GB", "engine": "mlx"}}
    ft.config(**SECTIONS | body)
    said = ft("train", "--dry-run")
    assert said.code == 0, said.err
    assert (said.out + said.err).count("MLX lacks model.new_tokens, so torch computes") == 1
