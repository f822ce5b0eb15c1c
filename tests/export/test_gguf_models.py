"""A GGUF file computes what was trained, by llama.cpp's own word: ids, distributions, greedy tokens, ends."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")
pytest.importorskip("gguf", reason="gguf is not installed")
pytest.importorskip("xllamacpp", reason="xllamacpp, llama.cpp's runtime, is not installed")

import gguf
import numpy as np
import small_tokenizers
from transformers import AutoModelForCausalLM

import truetune as ft
from truetune.engines.base import EngineSpec, Method
from truetune.engines.torch import tiny
from truetune.engines.torch.engine import TorchEngine
from truetune.errors import CheckFailed, TrueTuneError
from truetune.export.bounds import TABLE, TOLERANCE
from truetune.export.gguf import reduced, tensors, vocabulary, write
from truetune.models import gguf_header
from truetune.testing import examples

LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}
SHORT, LONG = [1.0, 1.1, 1.2, 1.3], [2.0, 3.0, 4.0, 5.0]
LONGROPE = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": SHORT, "long_factor": LONG}
CASES: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "llama": ("llama", "llama-bpe", "q8_0", {"rope_parameters": LLAMA3 | {"original_max_position_embeddings": 64}}),
    "mistral": ("mistral-window", "prefixed", "f16", {"sliding_window": 256}),
    "qwen2": ("qwen2", "qwen2", "q8_0", {"rope_parameters": YARN}),
    "qwen3": ("qwen3", "qwen2", "bf16", {}),
    "gemma2": ("gemma2", "bare", "f16", {}),
    "gemma3": ("gemma3", "bare", "q8_0", {"query_pre_attn_scalar": 8}),
    "phi3": ("phi3", "prefixed", "f16", {"rope_parameters": LONGROPE | {"original_max_position_embeddings": 256},
                                         "original_max_position_embeddings": 256}),
    "phi4": ("phi4", "gpt-4o", "f32", {}),
    "gpt2": ("gpt2", "gpt-2", "q8_0", {"bos_token_id": 0, "eos_token_id": 1}),
}  # fmt: skip
"""Name -> (tiny architecture, tokenizer, number type, configuration)."""
EXACT = ("gpt2", "gemma2", "gemma3")


def trained(folder: Path, name: str, method: Method | None = None) -> Path:
    """An adapter that changes every answer, beside `model/`; returns its folder."""
    architecture, kind, _, settings = CASES[name]
    model = small_tokenizers.write(tiny.make(folder / "model", architecture, **settings), kind)
    engine = TorchEngine(EngineSpec(model=model, method=method or Method(r=3, alpha=10)))
    for seed in range(2):
        engine.step(engine.prepare(examples(seed=seed)), 5e-2)
    (folder / "adapter").mkdir()
    engine.export(folder / "adapter")
    engine.close()
    return folder / "adapter"


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("llama"), "llama")


def stages(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in found["parity"]["stages"]}


def check(found: dict[str, Any], name: str) -> None:
    """Ids, ends and greedy tokens are the same, and the distributions are."""
    told = stages(found)
    assert found["parity"]["second"] == "llama.cpp"
    assert all(told[stage]["state"] == "ok" for stage in ("template", "tokenizer", "ends", "weights", "runtime"))
    assert told["runtime"]["greedy"] >= 2
    assert 0 < told["runtime"]["largest"] <= (TABLE if name in EXACT else TOLERANCE)
    assert told["ends"]["tried"] == len(told["ends"]["trained"]) > 0


@pytest.mark.parametrize("name", ["qwen2"])
def test_it_computes_what_was_trained(tmp_path: Path, name: str) -> None:
    every(tmp_path, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*CASES} - {"qwen2"}))
def test_every_architecture_computes_what_was_trained(tmp_path: Path, name: str) -> None:
    every(tmp_path, name)


def every(folder: Path, name: str) -> None:
    quant = CASES[name][2]
    out = folder / "out"
    found = ft.export(trained(folder, name), format="gguf", quant=quant, out=out)
    check(found, name)
    assert {path.name for path in out.iterdir()} == {"model.gguf", "README.md", "report.json"}
    head = gguf_header.check(out / "model.gguf")
    assert head.keys["general.file_type"] == tensors.FILES[quant]
    kinds = {each.kind for each in head.tensors if len(each.shape) > 1 and each.name != "position_embd.weight"}
    assert kinds == {int(tensors.TYPES[quant])}
    if quant != "f32":
        rounded = stages(found)["quantisation"]
        assert rounded["state"] == "ok" and 0 < rounded["kl"] <= rounded["bound"]["kl"]


def test_an_adapter_over_a_base(adapter: Path, tmp_path: Path) -> None:
    """In llama.cpp's own slot for adapters, beside PEFT's layout of the same factors."""
    found = ft.export(adapter, format="gguf-lora", out=tmp_path / "out")
    check(found, "llama")
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"adapter.gguf", "chat_template.jinja"}
    head = gguf_header.check(tmp_path / "out" / "adapter.gguf")
    assert head.keys["adapter.type"] == "lora" and head.keys["adapter.lora.alpha"] == 10
    assert sum(each.name.endswith("lora_a") for each in head.tensors) == 14


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rslora", "gpt2"])
def test_an_adapter_of_another_kind(tmp_path: Path, kind: str) -> None:
    method = Method(type="rslora", r=4, alpha=6) if kind == "rslora" else None
    found = ft.export(trained(tmp_path, "gpt2", method), format="gguf-lora", out=tmp_path / "out")
    check(found, "gpt2")


def test_what_an_adapter_cannot_hold(tmp_path: Path) -> None:
    place = trained(tmp_path, "qwen3", Method(type="dora", r=3, alpha=10))
    assert refused(place, tmp_path / "out", format="gguf-lora") == "3 export.lacks"
    assert refused(tmp_path / "model", tmp_path / "out", format="gguf-lora") == "2 export.no_adapter"
    assert refused(place, tmp_path / "out", quant="q9") == "2 export.quant"


def refused(place: Path, out: Path, format: str = "gguf", **values: Any) -> str:
    with pytest.raises(TrueTuneError) as error:
        ft.export(place, format=format, out=out, **values)
    assert error.value.hint and not out.exists()
    return f"{error.value.exit_code} {error.value.code}"


def wrong_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary.pre, "name", lambda tokenizer: "gpt-2")


def no_permutation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "permuted", lambda numbers, heads: numbers)


def lost_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "endings", lambda encode, template: (3,))


def other_template(monkeypatch: pytest.MonkeyPatch) -> None:
    text = small_tokenizers.TEMPLATES["chatml"]
    monkeypatch.setattr(gguf.GGUFWriter, "add_chat_template", lambda self, _: self.add_string(
        "tokenizer.chat_template", text))  # fmt: skip


def lost_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    real = tensors.Entry.read

    def read(self: tensors.Entry) -> Any:
        return real(self) if self.name != "blk.1.ffn_down.weight" else np.zeros(self.shape, np.float32)

    monkeypatch.setattr(tensors.Entry, "read", read)


SABOTAGES: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str]] = {
    "wrong pre": (wrong_words, "tokenizer"),
    "no permutation": (no_permutation, "weights"),
    "lost end": (lost_end, "ends"),
    "other template": (other_template, "template"),
    "lost tensor": (lost_adapter, "weights"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SABOTAGES)
def test_what_is_not_what_was_trained_is_not_put_in_place(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    how, stage = SABOTAGES[name]
    how(monkeypatch)
    with pytest.raises(CheckFailed) as caught:
        ft.export(adapter, format="gguf", quant="f32", out=tmp_path / "out")
    assert (caught.value.code, caught.value.beside["stage"]) == ("export.parity", stage)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.skipif(not reduced.installed(), reason="llama-cpp-python, which has the quantiser of K-quants, is missing")
@pytest.mark.parametrize("quant", ["q4_k_m", "q6_k"])
def test_k_quants(tmp_path: Path, quant: str) -> None:
    """By llama.cpp's own quantiser, of a model that has learned something: a random one is all near ties."""
    found = ft.export("starter", format="gguf", quant=quant, out=tmp_path / "out")
    rounded = stages(found)["quantisation"]
    assert rounded["state"] == "ok" and 0 < rounded["kl"] <= rounded["bound"]["kl"]
    kinds = {each.kind for each in gguf_header.check(tmp_path / "out" / "model.gguf").tensors}
    assert kinds & {12, 13, 14}, "no tensor has a K type"


def test_k_quants_need_their_extra(adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reduced, "installed", lambda: False)
    assert refused(adapter, tmp_path / "out", quant="q4_k_m") == "4 export.not_installed"


def test_where_it_comes_from_and_rows_that_no_block_divides(tmp_path: Path) -> None:
    """Blocks of Q8_0 have 32 numbers; a row of 48 goes as float16."""
    settings = {"intermediate_size": 48}
    folder = small_tokenizers.write(tiny.make(tmp_path / "model", "qwen2", **settings), "qwen2")
    (folder / "README.md").write_text('---\nlicense: "apache-2.0"\n---\n# A model\n', "utf-8")
    ft.export(folder, format="gguf", quant="q8_0", out=tmp_path / "out")
    head = gguf_header.check(tmp_path / "out" / "model.gguf")
    kinds, keys = {each.name: each.kind for each in head.tensors}, head.keys
    assert (kinds["blk.0.ffn_down.weight"], kinds["blk.0.ffn_up.weight"]) == (1, 8)
    assert keys["general.license"] == "apache-2.0"
    assert keys["general.base_model.0.name"] == "model"
    assert keys["tokenizer.chat_template"] == (folder / "chat_template.jinja").read_text("utf-8")
    assert "does not compose accents" in (tmp_path / "out" / "README.md").read_text("utf-8")
    assert keys["tokenizer.ggml.pre"] == "qwen2" and keys["tokenizer.ggml.add_bos_token"] is False


def test_settings_without_a_place_are_refused_by_name(tmp_path: Path) -> None:
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("qwen2", {"hidden_act": "gelu"}, "hidden_act"),
        ("qwen3", {"attention_bias": True}, "attention_bias"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "rope_type"),
        ("qwen2", {"rope_parameters": YARN | {"beta_fast": 16}}, "beta_fast"),
        ("gemma2", {"query_pre_attn_scalar": 16}, "query_pre_attn_scalar"),
        ("gemma2", {"attn_logit_softcapping": None}, "attn_logit_softcapping"),
        ("gemma3", {"query_pre_attn_scalar": 8, "final_logit_softcapping": 20.0}, "final_logit_softcapping"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("mistral-window", {"sliding_window": 6}, "sliding_window"),
        ("granite", {}, "granite"),
    ]
    for number, (architecture, settings, word) in enumerate(cases):
        folder = tiny.make(tmp_path / str(number), architecture, **settings)
        small_tokenizers.write(folder, "gpt-2")
        with pytest.raises(TrueTuneError, match=word) as caught:
            ft.export(folder, format="gguf", out=tmp_path / "out")
        assert caught.value.code in ("export.setting", "export.architecture") and caught.value.exit_code == 3


@pytest.mark.slow
def test_of_a_sharded_model_one_tensor_at_a_time(tmp_path: Path) -> None:
    """The same bytes from several files; what is in memory is one tensor, not the model."""
    whole = small_tokenizers.write(tiny.make(tmp_path / "whole", "qwen2"), "qwen2")
    shutil.copytree(whole, tmp_path / "parts")
    from_parts = tmp_path / "parts"
    loaded = AutoModelForCausalLM.from_pretrained(whole, trust_remote_code=False)
    (from_parts / "model.safetensors").unlink()
    loaded.save_pretrained(from_parts, max_shard_size="20KB")
    assert len(list(from_parts.glob("*.safetensors"))) > 3
    for place in (whole, from_parts):
        write.write(place, tmp_path / f"{place.name}.gguf", "q8_0", write.About("same"), None)
    one, other = (gguf.GGUFReader(tmp_path / f"{name}.gguf").tensors for name in ("whole", "parts"))
    read = [{each.name: each.data.tobytes() for each in some} for some in (one, other)]
    assert read[0] == read[1]
