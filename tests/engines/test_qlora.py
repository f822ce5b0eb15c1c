"""QLoRA: the base is packed as it is read, computes as what it reads back as, and comes back as plain weights."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("bitsandbytes")
pytest.importorskip("accelerate")

import torch

from truetune import engines
from truetune.data.example import Example
from truetune.engines.base import EngineSpec, Method
from truetune.engines.decoder import DecoderSpec
from truetune.engines.torch import merge, model, quantised, tiny
from truetune.engines.torch.decode import open_decoder
from truetune.engines.torch.engine import TorchEngine
from truetune.errors import InputError, ResourceError
from truetune.models import facts, gate, packed

QLORA = Method(type="qlora", r=4, alpha=8, bits=4)
SLOW = [pytest.param(name, bits, marks=pytest.mark.slow) for name in ("gemma2", "phi3", "gptj") for bits in (4, 8)]
ARCHITECTURES = [("llama", 4), ("gpt2", 8), *SLOW]


def rows(count=6, vocabulary=tiny.VOCAB):
    rng = np.random.default_rng(4)
    sizes = rng.integers(5, 23, count)
    return [
        Example(rng.integers(0, vocabulary, size).astype(np.int32), np.r_[0, np.ones(size - 1)].astype(np.float32), i)
        for i, size in enumerate(sizes)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.make(tmp_path_factory.mktemp("model"), "llama", hidden_size=64)


def spec(folder, bits=4, **changes):
    return replace(EngineSpec(model=folder, method=replace(QLORA, bits=bits)), **changes)


def trained(folder, bits=4, steps=4, **changes):
    engine = TorchEngine(spec(folder, bits, **changes))
    plan = engine.prepare(rows())
    return engine, plan, [engine.step(plan, 1e-2).loss for _ in range(steps)]


@pytest.mark.parametrize("bits", [4, 8])
def test_the_linear_layers_are_packed_and_nothing_else(folder, bits):
    engine = TorchEngine(spec(folder, bits))
    whole = model.load(EngineSpec(model=folder))
    layers = dict(quantised.layers(engine.model))
    assert len(layers) == 14 and not any("head" in name or "embed" in name for name in layers)
    for name, layer in layers.items():
        dense = whole.get_submodule(name.removesuffix(".base")).weight
        error = float((layer.weight - dense.detach()).norm() / dense.detach().norm())
        assert layer.packed.nbytes == dense.numel() * bits // 8
        assert (0.05 < error < 0.13) if bits == 4 else (0.001 < error < 0.02), (name, error)
    assert engine.describe()["parameters"] == facts.read(folder).parameters + sum(
        p.numel() for p in engine.parameters.values()
    )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_files_of_a_packed_model_are_let_go(tmp_path, name):
    """One tensor that looks into a file keeps all of the unpacked weights in the process's memory."""
    folder = tiny.make(tmp_path / "model", name)
    loaded = model.load(spec(folder))
    assert str(folder) not in Path("/proc/self/maps").read_text()
    assert loaded.get_input_embeddings().weight.abs().max() > 0


@pytest.mark.parametrize(("name", "bits"), ARCHITECTURES)
def test_it_computes_as_the_weights_that_it_reads_back_as(tmp_path, name, bits):
    """Loss and every gradient equal those over a plain model with the unpacked weights."""
    folder = tiny.make(tmp_path / "model", name)
    plain = merge.merge(model.load(spec(folder, bits)))
    merge.write(plain, tmp_path / "plain")
    for method in (QLORA, replace(QLORA, target_modules=(".*(c_proj|down_proj|fc_out)",)[0])):
        ours = TorchEngine(spec(folder, method=replace(method, bits=bits)))
        theirs = TorchEngine(spec(tmp_path / "plain", method=replace(method, type="lora", bits=0)))
        results = []
        for engine in (ours, theirs):
            for parameter in engine.parameters.values():
                parameter.data.normal_(std=0.1, generator=torch.Generator().manual_seed(parameter.numel()))
            loss, _ = engine._loss(next(iter(engine._batches(engine.prepare(rows())))), None)
            loss.backward()
            results.append((float(loss.detach()), {key: p.grad for key, p in engine.parameters.items()}))
        assert results[0][0] == pytest.approx(results[1][0], rel=1e-6)
        for key, gradient in results[0][1].items():
            assert torch.allclose(gradient, results[1][1][key], rtol=1e-4, atol=1e-5 * float(gradient.abs().max())), key


def test_nothing_dense_is_kept_for_the_backward_pass(folder):
    """The layers' weights are 64 × 128 and the like; no tensor of that many numbers is saved."""
    engine = TorchEngine(spec(folder, method=replace(QLORA, target_modules=("q_proj",))))
    dense, kept = {layer.size for _, layer in quantised.layers(engine.model)}, []

    def note(tensor):
        kept.append((tensor.shape, tensor.numel()))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        engine._loss(next(iter(engine._batches(engine.prepare(rows(3))))), None)
    assert kept and not [shape for shape, size in kept if size in dense and 320 not in shape]


@pytest.mark.parametrize("bits", [4, 8])
def test_a_resume_is_bit_identical(folder, tmp_path, bits):
    dropping = replace(QLORA, bits=bits, dropout=0.1)
    engine, plan, _ = trained(folder, method=dropping)
    engine.save(tmp_path)
    after = [engine.step(plan, 1e-2) for _ in range(3)]
    again = TorchEngine(spec(folder, method=dropping))
    again.restore(tmp_path)
    assert [again.step(plan, 1e-2) for _ in range(3)] == after
    assert after[-1].loss < after[0].loss


@pytest.mark.slow
def test_cuts_and_checkpointing_change_nothing(folder):
    losses = trained(folder)[2]
    for changes in ({"token_budget": 1}, {"gradient_checkpointing": True}):
        assert np.allclose(trained(folder, **changes)[2], losses, rtol=1e-5)


def test_a_base_that_comes_packed_is_the_same_base(folder, tmp_path):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    for bits in (4, 8):
        wanted = quantised.loading(bits, None, torch.float32, "cpu")["quantization_config"]
        assert isinstance(wanted, BitsAndBytesConfig)
        theirs = AutoModelForCausalLM.from_pretrained(folder, quantization_config=wanted, device_map={"": "cpu"})
        theirs.save_pretrained(tmp_path / str(bits))
        assert facts.read(tmp_path / str(bits)).bits == bits
        assert facts.read(tmp_path / str(bits)).parameters == facts.read(folder).parameters
        assert trained(tmp_path / str(bits), bits=0)[2] == trained(folder, bits)[2]


@pytest.mark.parametrize(
    "stored",
    [
        {"quant_method": "gptq"},
        {"quant_method": "awq"},
        {"quant_method": "bitsandbytes"},
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": True},
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_storage": "bfloat16"},
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": ["nf4"]},
        "bitsandbytes",
    ],
)
def test_other_ways_of_packing_are_refused_by_name(tmp_path, stored):
    with pytest.raises(InputError) as caught:
        gate.check({"model_type": "llama", packed.KEY: stored}, tmp_path)
    assert caught.value.finding.code == "model.quantized"
    assert "method: qlora" in caught.value.finding.hint
    if isinstance(stored, dict):
        assert stored["quant_method"] in caught.value.finding.message or "load_in_4bit" not in stored


def test_only_known_settings_of_a_packed_base_reach_the_loader():
    stored = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "evil": "x"}
    assert set(packed.settings({packed.KEY: stored})) == {
        "quant_method", "load_in_4bit", "load_in_8bit", "bnb_4bit_quant_type", "bnb_4bit_compute_dtype",
        "bnb_4bit_quant_storage", "bnb_4bit_use_double_quant",
    }  # fmt: skip


def test_off_is_the_packed_base(folder):
    engine, plan, _ = trained(folder)
    before = TorchEngine(spec(folder)).scores(plan)
    assert np.array_equal(engine.scores(plan, base=True), before)
    assert np.abs(engine.scores(plan) - before).max() > 0.1


@pytest.mark.parametrize("bits", [4, 8])
def test_the_decoder_opens_the_same_packed_base(folder, tmp_path, bits):
    engine, plan, _ = trained(folder, bits)
    engine.export(tmp_path)
    assert packed.noted(tmp_path / "adapter_model.safetensors") == bits
    decoder = open_decoder(DecoderSpec(folder, bits=bits))
    decoder.load("tuned", tmp_path)
    for name, base in (("tuned", False), (None, True)):
        found = [row.sum() for row in decoder.score(plan.examples, name)]
        assert np.allclose(found, engine.scores(plan, base=base)[:, 0], rtol=1e-5, atol=1e-4)
    other = open_decoder(DecoderSpec(folder))
    other.load("tuned", tmp_path)
    assert not np.allclose([row.sum() for row in other.score(plan.examples, "tuned")], found, atol=1e-2)


def divergence(one, other):
    """KL(one ‖ other) per position, in nats, from logits [N, V]."""
    p, q = one.double().log_softmax(-1), other.double().log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())


def logits(found, ids):
    segments = {"segments": ((0, ids.shape[1]),)} if found.config._attn_implementation.startswith("truetune") else {}
    with torch.no_grad():
        return found.eval()(ids, position_ids=torch.arange(ids.shape[1])[None], use_cache=False, **segments).logits[0]


@pytest.mark.parametrize(("name", "bits", "lost"), [("llama", 4, 1e-3), ("gpt2", 8, 1e-6)])
def test_merged_into_the_unpacked_base_it_is_the_trained_model(tmp_path, name, bits, lost):
    """The original weights are another base: what rounding changed is missing there."""
    folder = tiny.make(tmp_path / "model", name)
    engine, _, _ = trained(folder, bits)
    (tmp_path / "adapter").mkdir()
    engine.export(tmp_path / "adapter")
    ids = torch.randint(0, tiny.VOCAB, (1, 64), generator=torch.Generator().manual_seed(2))
    trained_logits = logits(engine.model, ids)
    beside = spec(folder, bits, adapter=tmp_path / "adapter")
    merge.write(merge.merged(beside), tmp_path / "merged")
    assert json.loads((tmp_path / "merged" / "config.json").read_text()).get("quantization_config") is None
    loaded = model.load(EngineSpec(model=tmp_path / "merged"))
    wrong = merge.merged(replace(beside, method=replace(beside.method, bits=0)))
    assert divergence(trained_logits, logits(loaded, ids)) < 1e-10
    assert divergence(trained_logits, logits(wrong, ids)) > lost


def test_a_device_that_cannot_is_refused_before_loading():
    with pytest.raises(ResourceError) as caught:
        engines.refuse_unpackable(4, "mps")
    assert caught.value.finding.code == "device.packed" and "cpu" in caught.value.finding.hint
    engines.refuse_unpackable(0, "mps")
    engines.refuse_unpackable(4, "cpu")


@pytest.mark.slow
def test_no_code_is_fetched_from_a_hub(tmp_path):
    """On some processors bitsandbytes asks the package `kernels` for code; that package is never imported."""
    (tmp_path / "kernels.py").write_text("raise SystemExit('kernels was imported')")
    code = "from truetune import engines; engines.module('torch').quantised.library(); import transformers"
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(tmp_path), "PATH": ""}, timeout=300)
    assert done.returncode == 0


@pytest.mark.parametrize(("shape", "shared"), [((48, 32), False), ((7, 80), True), ((48, 96), True), ((16, 192), True)])
def test_rows_of_any_width_read_back_as_they_were_packed(shape, shared):
    """Against the definition: a number of the table for each four bits, times its block's scale, in the rows' order."""
    functional = quantised.library().functional
    packed, state = functional.quantize_4bit(torch.randn(shape), quant_type="nf4", compress_statistics=shared)
    scales = functional.dequantize_blockwise(state.absmax, state.state2) + state.offset if shared else state.absmax
    numbers = state.code[torch.stack((packed.flatten() >> 4, packed.flatten() & 15), 1).flatten().long()]
    exact = (numbers * scales.repeat_interleave(state.blocksize)[: len(numbers)])[: shape[0] * shape[1]].view(shape)
    assert torch.allclose(quantised.unpacked(packed, state), exact, atol=1e-6)
