"""Which kernels a GPU's run says that it uses, decided here without one."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("torch")

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from truetune.engines.base import EngineSpec, Method
from truetune.engines.torch import attention, fused, kernels, liger, tiny, unpack, varlen

ABSENT = dict.fromkeys(("norms", "gates", "rotary"), "not used: ImportError: no liger")
CPU = torch.device("cpu")


@pytest.fixture
def asked(monkeypatch):
    found = []
    monkeypatch.setattr(varlen, "refusal", lambda *case: found.append(case) or "")
    return found


@pytest.mark.parametrize("name", sorted(tiny.ARCHITECTURES))
def test_attention_is_told_for_every_architecture(name, asked):
    kind, settings = tiny.ARCHITECTURES[name]
    config = CONFIG_MAPPING[kind](**settings)
    config._attn_implementation = "sdpa"
    assert kernels.attending(config, CPU, torch.bfloat16) == "transformers' own, padded"
    config._attn_implementation = attention.NAME
    assert "float32 has no kernel" in kernels.attending(config, CPU, torch.float32)
    assert asked == []
    assert kernels.attending(config, CPU, torch.bfloat16) == "varlen, all segments at once"
    ((_, _, heads, kv_heads, dim, window),) = asked
    assert heads == 4 and kv_heads in (1, 2, 4) and dim == 8 and window in (None, 4096, 6)


def test_a_reason_is_told(monkeypatch):
    config = CONFIG_MAPPING["llama"](**tiny.LLAMA)
    config._attn_implementation = attention.NAME
    monkeypatch.setattr(varlen, "refusal", lambda *case: "RuntimeError: too old a card")
    assert kernels.attending(config, CPU, torch.float16) == "segment by segment (RuntimeError: too old a card)"


def test_what_is_put_in(llama, monkeypatch):
    """Liger's kernels, else our own functions; a compiler in place of both; unpacking ahead where there is room."""
    spec, calls = EngineSpec(llama, device="cuda"), []
    monkeypatch.setattr(unpack, "install", lambda model: calls.append("unpack") or "ahead")

    def installed(spec, said):
        monkeypatch.setattr(liger, "install", lambda model: calls.append("liger") or dict(said))
        model = AutoModelForCausalLM.from_pretrained(llama)
        calls.clear()
        found = kernels.install(model, spec)
        return found, sum(isinstance(module, fused.FusedNorm) for module in model.modules()), [*calls]

    assert installed(replace(spec, device="cpu"), ABSENT) == ({}, 5, [])
    found, ours, called = installed(spec, ABSENT)
    assert ours == 5 and called == ["liger", "unpack"] and found.keys() == {*ABSENT, "unpacking", "attention"}
    assert installed(spec, {"norms": "liger in 5 of 5 modules"})[1] == 0
    assert installed(replace(spec, compiled=True), ABSENT)[1:] == (5, ["unpack"])
    assert "liger" in installed(replace(spec, compiled=True, method=Method(bits=4)), ABSENT)[2]
    assert "unpacking" not in installed(replace(spec, offload=True), ABSENT)[0]
