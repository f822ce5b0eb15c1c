"""LoftQ: the adapter starts as what packing has rounded off, and belongs to the original base, packed alike."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("bitsandbytes")
pytest.importorskip("accelerate")

import torch
from safetensors.torch import load_file

from truetune.engines import adapter
from truetune.engines.base import EngineSpec, Method
from truetune.engines.torch import loftq, lora, model, quantised, tiny
from truetune.engines.torch.engine import TorchEngine
from truetune.errors import UsageError
from truetune.models import packed
from truetune.testing import examples

LOFTQ = Method(type="qlora", r=4, alpha=8, bits=4, init="loftq")
BASES = [("llama", 4), ("llama", 8), ("gpt2", 4)]


def engine(folder, **changes):
    settings = {name: changes.pop(name) for name in ("bits", "init", "r", "dropout") if name in changes}
    return TorchEngine(EngineSpec(model=folder, method=replace(LOFTQ, **settings), token_budget=64, **changes))


def train(one, steps=range(3)):
    return [one.step(one.prepare(examples(seed=step)), 1e-2) for step in steps]


def logits(one, ids):
    segments = {"segments": ((0, ids.shape[1]),)} if one.forward.packs else {}
    with torch.no_grad():
        return one.model.eval()(ids, position_ids=torch.arange(ids.shape[1])[None], use_cache=False, **segments).logits


def exported(one, folder):
    folder.mkdir()
    one.export(folder)
    return folder


@pytest.mark.parametrize(("name", "bits"), BASES)
def test_it_starts_nearer_to_the_original_weights(models, name, bits):
    """‖W − (Q + s B A)‖ of every layer is what the singular values beyond r of W − Q leave, by numpy; plain QLoRA has
    all of them. The logits are nearer too."""
    folder = models(name)
    whole = model.load(EngineSpec(model=folder))
    fresh, plain = (engine(folder, bits=bits, init=init) for init in ("loftq", "default"))
    count = 0
    for key, layer in lora.layers(fresh.model):
        W = whole.get_submodule(key).weight.detach().numpy().astype(np.float64)
        W = W.T if isinstance(whole.get_submodule(key), lora.Conv1D) else W
        Q, A, B = (found.detach().numpy().astype(np.float64) for found in (layer.weight, layer.lora_A, layer.lora_B))
        values = np.linalg.svd(W - Q, compute_uv=False)
        left, expected, lost = np.linalg.norm(W - (Q + 2 * B @ A)), np.linalg.norm(values[4:]), np.linalg.norm(W - Q)
        assert left == pytest.approx(expected, rel=1e-4) and left < 0.95 * lost, key
        count += 1
    assert count == len(list(quantised.layers(fresh.model))) > 4
    ids = torch.randint(0, tiny.VOCAB, (1, 32), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        segments = {"segments": ((0, 32),)} if fresh.forward.packs else {}
        wanted = whole.eval()(ids, position_ids=torch.arange(32)[None], use_cache=False, **segments).logits
    near, far = (float((logits(one, ids) - wanted).norm()) for one in (fresh, plain))
    assert near < far


def test_a_whole_rank_makes_up_for_all_of_it():
    torch.manual_seed(0)
    W, Q = torch.randn(12, 8), torch.randn(12, 8)
    A, B = loftq.start(W, Q, 8, 2.0)
    assert torch.allclose(Q + 2 * B @ A, W, atol=1e-5)


def test_it_is_pefts_start():
    """PEFT counts no scale, so they are the same where alpha = r."""
    utils = pytest.importorskip("peft.utils.loftq_utils")
    torch.manual_seed(0)
    W, Q = torch.randn(24, 16), torch.randn(24, 16)
    theirs = utils._low_rank_decomposition(W - Q, reduced_rank=4)
    A, B = loftq.start(W, Q, 4, 1.0)
    assert torch.allclose(A, theirs["R"], atol=1e-5) and torch.allclose(B, theirs["L"], atol=1e-5)


@pytest.mark.parametrize("bits", [4, 8])
def test_off_is_the_packed_base(llama, bits):
    """Bit by bit: a reference of DPO is what stood before the start, whatever the adapter began as."""
    one, plain = engine(llama, bits=bits), engine(llama, bits=bits, init="default")
    plan = one.prepare(examples())
    before = plain.scores(plan)
    assert not np.allclose(one.scores(plan), before, atol=1e-4)
    train(one)
    assert np.array_equal(one.scores(plan, base=True), before)


def test_restore_undoes_save_and_the_file_is_of_the_rank_itself(llama, tmp_path):
    """Nothing was taken from the base, so nothing is given back: no difference adapter of twice the rank."""
    first, second = (engine(llama, dropout=0.3) for _ in range(2))
    train(first)
    (tmp_path / "saved").mkdir()
    first.save(tmp_path / "saved")
    second.restore(tmp_path / "saved")
    assert train(second, range(3, 6)) == train(first, range(3, 6))
    folder = exported(first, tmp_path / "adapter")
    shapes = {tensor.shape[0] for name, tensor in load_file(folder / adapter.WEIGHTS).items() if ".lora_A" in name}
    assert shapes == {4} and adapter.read_config(folder)["r"] == 4
    assert packed.noted(folder / adapter.WEIGHTS) == 4
    again = engine(llama, init="default", adapter=folder)
    plan = again.prepare(examples())
    assert np.array_equal(again.scores(plan), first.scores(plan))


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_peft_reads_our_adapter_beside_the_original_base_packed_alike(models, tmp_path, name):
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    wide = {"n_embd": 64} if name == "gpt2" else {"hidden_size": 64}  # see test_qlora_oracle.py
    folder = models(name, **wide)
    one = engine(folder)
    start = exported(one, tmp_path / "start")
    train(one)
    ids = torch.randint(0, tiny.VOCAB, (1, 24), generator=torch.Generator().manual_seed(1))
    packing = quantised.loading(4, None, torch.float32, "cpu")
    base = AutoModelForCausalLM.from_pretrained(folder, **packing, dtype=torch.float32, attn_implementation="eager")
    theirs = peft.PeftModel.from_pretrained(base, exported(one, tmp_path / "end"), is_trainable=True).train()
    theirs.load_adapter(start, "start", is_trainable=True)
    with torch.no_grad():
        found = theirs(ids).logits
        theirs.set_adapter("start")
        untrained = theirs(ids).logits
    ours = logits(one, ids)
    assert (ours - found).abs().max() <= 1e-5 * max(1.0, float(found.abs().max()))
    assert (ours - untrained).abs().max() > 1e-3


def test_a_rank_beyond_the_weights_is_refused(llama):
    with pytest.raises(UsageError) as caught:
        engine(llama, r=65)
    assert caught.value.finding.code == "method.init_rank"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_pefts_own_way_on_a_gpu(tmp_path):
    """PEFT replaces the weights of a fresh adapter beside the same packed base: with alpha = r these are ours."""
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    folder = tiny.make(tmp_path / "model", "llama")
    packing = quantised.loading(4, None, torch.float32, "cuda")
    base = AutoModelForCausalLM.from_pretrained(folder, **packing, dtype=torch.float32)
    theirs = peft.get_peft_model(base, peft.LoraConfig(r=4, lora_alpha=4, target_modules="all-linear"))
    peft.replace_lora_weights_loftq(theirs, model_path=str(folder))
    one = TorchEngine(EngineSpec(model=folder, method=replace(LOFTQ, alpha=4), device="cuda"))
    found = dict(theirs.named_parameters())
    for key, layer in lora.layers(one.model):
        A, B = (found[f"base_model.model.{key}.lora_{matrix}.default.weight"] for matrix in "AB")
        assert torch.allclose(layer.lora_B @ layer.lora_A, B @ A, atol=1e-5), key
