"""The memory estimate grows with what it should grow with, and what there is keeps to a container's limit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truetune.models import facts, memory, source

STARTER = facts.read(source.STARTER)
LARGE = replace(
    STARTER, hidden=4096, layers=32, heads=32, kv_heads=8, head_dim=128, intermediate=14336, vocabulary=128256,
    parameters=8_030_000_000,
)  # fmt: skip
SETUPS = st.builds(
    memory.Setup,
    method=st.sampled_from(["lora", "full", "qlora", "dora"]),
    r=st.integers(1, 256),
    targets=st.sampled_from([None, ("q_proj", "v_proj"), ("c_attn",)]),
    dtype=st.sampled_from(list(memory.BYTES)),
    packed=st.booleans(),
    checkpointing=st.booleans(),
    gpu=st.booleans(),
)


@given(SETUPS, st.integers(1, 50_000), st.integers(1, 1000))
def test_more_tokens_cost_more(setup: memory.Setup, tokens: int, more: int) -> None:
    small, big = (memory.estimate(STARTER, setup, count) for count in (tokens, tokens + more))
    assert big.activations > small.activations
    assert (big.weights, big.optimizer) == (small.weights, small.optimizer)
    assert big.total > small.total


@given(SETUPS, st.integers(1, 100))
def test_rank_costs_for_lora_alone(setup: memory.Setup, more: int) -> None:
    low, high = (memory.estimate(LARGE, replace(setup, r=r), 100).total for r in (setup.r, setup.r + more))
    assert high > low if setup.method != "full" else high == low


def test_a_gpu_unpacks_two_layers_at_once() -> None:
    """One computes, the next is unpacked; where the layers' inputs wait in the host's memory there is room for one."""
    packed = memory.Setup("qlora", dtype="bfloat16", bits=4, gpu=True, checkpointing=True)
    largest = max(inside * outside for inside, outside in memory.projections(LARGE).values()) * 2
    ahead, tight, host = (
        memory.base_bytes(LARGE, setup) for setup in (packed, replace(packed, offload=True), replace(packed, gpu=False))
    )
    assert ahead - largest == tight == host


@given(SETUPS)
def test_checkpointing_saves_activations(setup: memory.Setup) -> None:
    plain, saved = (
        memory.estimate(LARGE, replace(setup, checkpointing=flag), 1000).activations for flag in (False, True)
    )
    assert saved < plain / 5


@given(SETUPS, st.integers(1, 9000))
def test_offload_saves_the_inputs_of_all_layers_but_two(setup: memory.Setup, tokens: int) -> None:
    saving = replace(setup, checkpointing=True)
    here, there = (memory.estimate(LARGE, replace(saving, offload=flag), tokens) for flag in (False, True))
    slack = memory.GPU_SLACK if setup.gpu else memory.SLACK
    inputs = tokens * 30 * 4096 * memory.BYTES[setup.dtype]
    assert here.activations - there.activations == pytest.approx(slack * inputs, rel=1e-6, abs=2)
    assert memory.host_bytes(LARGE, replace(saving, offload=True), tokens) == inputs * 32 // 30
    assert memory.host_bytes(LARGE, saving, tokens) == 0


def test_loftq_reads_the_weights_once_more() -> None:
    """On a processor they stand beside the packed ones before the first step, so they count where a step needs less."""
    plain = memory.Setup("qlora", bits=4)
    small, large = (memory.estimate(LARGE, plain, tokens) for tokens in (10, 10_000))
    for tokens, found in ((10, small), (10_000, large)):
        more = memory.estimate(LARGE, replace(plain, original=True), tokens)
        start = found.weights + found.trained + found.runtime + 4 * LARGE.parameters
        assert more.total == max(found.total, start)
        gpu = replace(plain, gpu=True)
        beside = memory.estimate(LARGE, replace(gpu, original=True), tokens).weights
        assert beside == memory.estimate(LARGE, gpu, tokens).weights
    assert memory.estimate(LARGE, replace(plain, original=True), 10).total > small.total


@given(SETUPS)
def test_packing_saves_weights(setup: memory.Setup) -> None:
    """Llama-3-8B in 4 bits: its 6.98 billion packed weights take 3.6 GB; one or two layers are unpacked at a time."""
    plain, eight, four = (memory.estimate(LARGE, replace(setup, bits=bits), 500) for bits in (0, 8, 4))
    size = memory.BYTES[setup.dtype]
    embeddings = (8_030_000_000 - 6_979_321_856) * size
    unpacked = 4096 * 14336 * size * (2 if setup.gpu and not setup.offload else 1)
    assert four.weights - embeddings == int(6_979_321_856 * (0.5 + 1 / 64 + 1 / 4096)) + unpacked
    assert four.weights < eight.weights < plain.weights
    assert replace(four, weights=0) == replace(eight, weights=0)
    assert four.optimizer == plain.optimizer and four.trained == plain.trained


def test_experts_are_not_packed() -> None:
    """Only the maps around attention are layers of their own: 32 · (2 · 4096² + 2 · 4096 · 1024) weights."""
    mixture = replace(LARGE, experts=8, parameters=46_700_000_000)
    whole, packed = (memory.estimate(mixture, memory.Setup("qlora", bits=bits), 10).weights for bits in (0, 4))
    linear = 32 * (2 * 4096**2 + 2 * 4096 * 1024)
    assert whole - packed == 4 * linear - int(linear * memory.PACKED[4]) - 4 * 4096**2


def test_known_counts() -> None:
    """Llama-3-8B: 41,943,040 trained parameters at rank 16 on all linear layers, as PEFT prints them."""
    assert memory.trained(LARGE, memory.Setup("lora", 16)) == 41_943_040
    assert memory.trained(LARGE, memory.Setup("lora", 8, ("q_proj", "v_proj"))) == 3_407_872
    assert memory.trained(LARGE, memory.Setup("full")) == LARGE.parameters
    found = memory.estimate(LARGE, memory.Setup("full", dtype="bfloat16"), 10)
    assert (found.weights, found.trained, found.optimizer) == (16_060_000_000, 32_120_000_000, 64_240_000_000)
    assert memory.estimate(LARGE, memory.Setup("full"), 10).trained == 0


def test_available_keeps_to_a_container_limit(tmp_path: Path) -> None:
    free = memory.available(cgroups=tmp_path)
    assert free > 0
    assert memory.available(12345) == 12345
    assert memory.installed(tmp_path) > free
    (tmp_path / "memory.max").write_text("10000\n")
    (tmp_path / "memory.current").write_text("7000\n")
    (tmp_path / "memory.stat").write_text("anon 3000\ninactive_file 4000\n")
    assert memory.available(cgroups=tmp_path) == 7000
    assert memory.installed(tmp_path) == 10000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available(cgroups=tmp_path) > 7000
    old = tmp_path / "memory"
    old.mkdir()
    (old / "memory.limit_in_bytes").write_text("5000")
    (old / "memory.usage_in_bytes").write_text("4000")
    (old / "memory.stat").write_text("total_inactive_file 500")
    assert memory.available(cgroups=tmp_path) == 1500


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (23.9e9, "23.9 GB"), (510e6, "510 MB"), (2e12, "2.0 TB")],
)
def test_readable(size: float, text: str) -> None:
    assert memory.readable(size) == text
