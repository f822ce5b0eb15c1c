"""A merged model computes what was trained, whatever trained it; transformers loads it without a word about PEFT."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import truetune as ft
from truetune.engines.base import EngineSpec, Method
from truetune.engines.torch import tiny
from truetune.engines.torch.engine import TorchEngine
from truetune.errors import CheckFailed, UsageError
from truetune.export import merged
from truetune.export.bounds import BOUNDS, Bound
from truetune.models.source import STARTER
from truetune.testing import examples

METHODS = {
    "lora": Method(r=3, alpha=10),
    "dora": Method(type="dora", r=3, alpha=10),
    "pissa": Method(r=3, alpha=10, init="pissa"),
    "qlora": Method(type="qlora", r=3, alpha=10, bits=4),
    "ia3": Method(type="ia3"),
    "head": Method(r=3, alpha=10, modules_to_save=("lm_head",)),
}


def trained(
    folder: Path,
    method: Method,
    architecture: str = "llama",
    dtype: torch.dtype = torch.float32,
    new_tokens: tuple[int, ...] = (),
) -> Path:
    """An adapter that changes every answer, beside `model/` with the starter's tokenizer; returns its folder."""
    model = tiny.make(folder / "model", architecture)
    if dtype is not torch.float32:
        weights = load_file(model / "model.safetensors")
        save_file(
            {name: value.to(dtype) for name, value in weights.items()}, model / "model.safetensors", {"format": "pt"}
        )
    shutil.copyfile(STARTER / "tokenizer.json", model / "tokenizer.json")
    engine = TorchEngine(EngineSpec(model=model, method=method, new_tokens=new_tokens))
    for seed in range(2):
        engine.step(engine.prepare(examples(seed=seed)), 5e-2)
    adapter = folder / "adapter"
    adapter.mkdir()
    engine.export(adapter)
    engine.close()
    return adapter


@pytest.mark.parametrize("name", METHODS)
def test_it_computes_what_was_trained(tmp_path: Path, name: str) -> None:
    if name == "qlora":
        pytest.importorskip("bitsandbytes")
    adapter = trained(tmp_path, METHODS[name], "gpt2" if name == "ia3" else "llama")
    found = ft.export(adapter, format="merged", out=tmp_path / "out")
    assert found["parity"]["ok"] and found["stored"] is None
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "quantization_config" not in config
    loaded, base = (AutoModelForCausalLM.from_pretrained(tmp_path / place) for place in ("out", "model"))
    ids = torch.arange(20)[None]
    assert not torch.allclose(loaded(ids).logits, base(ids).logits, atol=1e-3)
    assert (tmp_path / "out" / "tokenizer.json").is_file()


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_new_tokens_have_their_rows(tmp_path: Path, architecture: str) -> None:
    """Of an embedding that is the head too, and of one that is not."""
    new = (5, tiny.VOCAB, tiny.VOCAB + 1)
    adapter = trained(tmp_path, METHODS["lora"], architecture, new_tokens=new)
    assert ft.export(adapter, format="merged", out=tmp_path / "out")["parity"]["ok"]
    loaded, base = (AutoModelForCausalLM.from_pretrained(tmp_path / place) for place in ("out", "model"))
    assert loaded.get_input_embeddings().weight.shape[0] == tiny.VOCAB + 2 == loaded.config.vocab_size
    same = loaded.get_input_embeddings().weight[: tiny.VOCAB] == base.get_input_embeddings().weight
    assert same.all(dim=1).tolist() == [number != 5 for number in range(tiny.VOCAB)]


def test_it_is_stored_as_its_base_is(tmp_path: Path) -> None:
    adapter = trained(tmp_path, METHODS["lora"], dtype=torch.bfloat16)
    found = ft.export(adapter, format="merged", out=tmp_path / "out")
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    assert found["stored"]["dtype"] == "bfloat16" and 0 < found["stored"]["kl"] < found["stored"]["bound"]["kl"]


def test_what_rounding_would_destroy_is_not_put_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = trained(tmp_path, METHODS["lora"], dtype=torch.bfloat16)
    monkeypatch.setitem(BOUNDS, "bfloat16", Bound(kl=1e-12, top1=1.0))
    with pytest.raises(CheckFailed) as caught:
        ft.export(adapter, format="merged", out=tmp_path / "out")
    assert caught.value.finding.code == "export.parity" and caught.value.beside["stage"] == "quantisation"
    assert not (tmp_path / "out").exists()


def sabotaged(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    real = merged.folded.folded

    def wrong(*args: Any, **kwargs: Any) -> Any:
        found = real(*args, **kwargs)
        layer = found.model.layers[0].self_attn.q_proj
        with torch.no_grad():
            if how == "transposed":
                layer.weight.copy_(layer.weight.t().clone())
            elif how == "permuted heads":
                layer.weight.copy_(layer.weight.flip(0))
            else:
                layer.weight.zero_()
        return found

    monkeypatch.setattr(merged.folded, "folded", wrong)
    monkeypatch.setattr(merged.streamed, "plan", lambda *args: None)  # the way in memory


@pytest.mark.parametrize("how", ["transposed", "permuted heads", "lost"])
def test_the_gate_refuses_another_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    adapter = trained(tmp_path, METHODS["lora"])
    sabotaged(monkeypatch, how)
    with pytest.raises(CheckFailed) as caught:
        ft.export(adapter, format="merged", out=tmp_path / "out")
    assert caught.value.finding.code == "export.parity" and not (tmp_path / "out").exists()


def test_what_no_weight_can_hold_is_refused(tmp_path: Path) -> None:
    adapter = trained(tmp_path, Method(type="prompt", virtual_tokens=3))
    with pytest.raises(UsageError) as caught:
        ft.export(adapter, format="merged", out=tmp_path / "out")
    assert caught.value.finding.code == "export.unmergeable" and not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="whole model already"):
        ft.export(tmp_path / "model", format="merged", out=tmp_path / "out")
