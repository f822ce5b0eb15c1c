"""`method: auto`: LoRA, or QLoRA where a GPU's memory does not hold LoRA; a packed base decides by itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from truetune.config import load
from truetune.engines.base import Choice
from truetune.errors import UsageError
from truetune.models import facts, fit, source
from truetune.train.method import LORA, Decided, decide
from truetune.train.resolve import case

GB = 10**9
LLAMA = replace(
    facts.read(source.STARTER), hidden=4096, layers=32, heads=32, kv_heads=8, head_dim=128, intermediate=14336,
    vocabulary=128256, parameters=8_030_000_000,
)  # fmt: skip


def decided(memory: int, device: str = "cuda", known: facts.Facts = LLAMA, **keys: Any) -> Decided:
    config = load(None, (), {"model": "starter", "data": "rows.jsonl", **keys}).config
    found = case(config, known, Choice(device, "bfloat16", "", ""), memory, 1024, packed=True)
    return decide(config, found, device)


def test_auto_is_lora_where_it_fits() -> None:
    assert decided(40 * GB) == Decided("lora", 0, LORA)


def test_auto_is_qlora_where_a_gpu_does_not_hold_lora() -> None:
    found = decided(16 * GB)
    assert (found.type, found.bits) == ("qlora", 4)
    assert found.reason.startswith("LoRA would need about") and "16.0 GB are available" in found.reason
    assert decided(16 * GB, **{"method.bits": 8}).bits == 8


def test_gradient_checkpointing_comes_before_packing() -> None:
    """It changes nothing that is learned."""
    plain = case(
        load(None, (), {"model": "starter", "data": "rows.jsonl"}).config,
        LLAMA, Choice("cuda", "bfloat16", "", ""), 0, 1024, packed=True,
    )  # fmt: skip
    between = int((plain.checkpointing().needs + plain.needs) / 2 / fit.SHARE)
    assert decided(between).type == "lora"


def test_a_processor_keeps_lora() -> None:
    """Its memory can be extended by waiting; what does not fit is said, with QLoRA among the ways out."""
    assert decided(16 * GB, "cpu").type == "lora"


@pytest.mark.parametrize("method", ["lora", "full"])
def test_what_was_asked_for_stays(method: str) -> None:
    assert decided(1 * GB, **{"method.type": method}) == Decided(method, 0)


def test_a_packed_base_is_qlora_as_it_is_stored() -> None:
    stored = replace(LLAMA, bits=8)
    assert decided(40 * GB, "cpu", stored).bits == 8
    assert decided(40 * GB, "cpu", stored).type == "qlora"
    assert decided(40 * GB, "cpu", stored, **{"method.type": "qlora"}).bits == 8


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_packed_base_takes_no_other_method(method: str) -> None:
    with pytest.raises(UsageError) as caught:
        decided(40 * GB, known=replace(LLAMA, bits=4), **{"method.type": method})
    assert caught.value.finding.code == "method.packed_base"
    assert "qlora" in caught.value.finding.hint


def test_loftq_needs_the_weights_as_they_were() -> None:
    keys = {"method.type": "qlora", "method.init": "loftq"}
    assert decided(40 * GB, **keys).type == "qlora"
    with pytest.raises(UsageError) as caught:
        decided(40 * GB, known=replace(LLAMA, bits=4), **keys)
    assert (caught.value.finding.code, caught.value.finding.where) == ("method.packed_base", "method.init")
    assert "init: default" in caught.value.finding.hint


def test_a_named_memory_of_a_gpu_is_used_up_to_what_is_held() -> None:
    """The rest is a reserve: of a processor's memory others take, and its allocator is not held."""
    for device, wish, share in (("cuda", "auto", 0.8), ("cuda", "8GB", 0.95), ("cpu", "8GB", 0.8)):
        config = load(None, (), {"model": "starter", "data": "rows.jsonl", "resources.memory": wish}).config
        found = case(config, LLAMA, Choice(device, "bfloat16", "", ""), 8 * GB, 1024, packed=True)
        assert found.room == int(8 * GB * share)


@pytest.mark.parametrize(("name", "longest"), [("mistral-7b", 1536), ("llama-8b", 256)])
def test_qlora_trains_7_to_8_billion_parameters_in_7_5_gb(name: str, longest: int) -> None:
    known = LLAMA if name == "llama-8b" else replace(LLAMA, vocabulary=32000, parameters=7_242_000_000)
    config = load(
        None, (), {"model": "starter", "data": "r", "resources.memory": "7.5GB", "method.type": "qlora"}
    ).config
    found = case(config, known, Choice("cuda", "bfloat16", "", ""), 7_500_000_000, longest, packed=True)
    plan = fit.budget(found)
    assert plan.estimate.total <= 7.5 * GB and plan.checkpointing
