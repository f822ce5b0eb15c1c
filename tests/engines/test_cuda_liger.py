"""Liger's kernels in front of modules: which modules take part, and that a model stays what it is.

Here the kernels are stood in for by plain formulas with Liger's signatures; on a GPU they are Liger's own.
"""

from __future__ import annotations

from importlib.util import find_spec

import pytest

pytest.importorskip("torch")

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from truetune.engines.torch import liger, trial

GPU = pytest.mark.skipif(
    not (torch.cuda.is_available() and find_spec("liger_kernel")),
    reason="no CUDA GPU with liger-kernel: its kernels are NOT tested here",
)
TAKES_PART = {
    "llama": (5, 2, 2), "qwen3": (9, 2, 2), "gemma": (5, 2, 2), "gemma2": (9, 2, 2), "olmo2": (9, 2, 2),
    "phi3": (5, 0, 0), "phi": (0, 0, 2), "gptj": (0, 0, 0), "mixtral": (5, 0, 2), "gpt2": (0, 0, 0),
}  # fmt: skip
"""Norms, gated blocks and attentions of the tiny models."""


class Formula:
    """A function with the face of one of Liger's."""

    def __init__(self, computed):
        self.apply = computed


def rms(x, weight, epsilon, offset, casting, in_place):
    assert in_place is False
    wide = x.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
    if casting == "llama":
        return (offset + weight) * wide.to(x.dtype)
    return ((offset + weight.float()) * wide).to(x.dtype)


def rope(q, k, cos, sin):
    def turned(x):
        one, other = x.chunk(2, -1)
        return x * cos[:, None] + torch.cat((-other, one), -1) * sin[:, None]

    return turned(q), turned(k)


STAND_INS = {
    "rms_norm.LigerRMSNormFunction": Formula(rms),
    "swiglu.LigerSiLUMulFunction": Formula(lambda a, b: F.silu(a) * b),
    "geglu.LigerGELUMulFunction": Formula(lambda a, b: F.gelu(a, approximate="tanh") * b),
    "rope.LigerRopeFunction": Formula(rope),
}


@pytest.fixture
def stood_in(monkeypatch):
    """Formulas for kernels, on the processor; returns what was called."""
    called = []

    def function(name):
        def apply(*given):
            called.append(name)
            return STAND_INS[name].apply(*given)

        return Formula(apply)

    monkeypatch.setattr(liger, "DEVICES", ("cpu",))
    monkeypatch.setattr(liger, "function", function)
    liger.turned.cache_clear()
    yield called
    liger.turned.cache_clear()


def outcome(model, device="cpu"):
    """Logits and the embeddings' gradient, float32."""
    hidden = model.get_input_embeddings()(torch.arange(4, 24, device=device)[None]).detach().requires_grad_()
    logits = model(inputs_embeds=hidden).logits.float()
    return logits.detach(), torch.autograd.grad(logits.logsumexp(-1).sum(), hidden)[0].float()


def load(folder, dtype=torch.float32, device="cpu"):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager")
    return model.requires_grad_(False).eval().to(device)


@pytest.mark.parametrize("name", sorted(TAKES_PART))
def test_a_model_stays_what_it_is(name, models, stood_in):
    plain, ours = (load(models(name)) for _ in range(2))
    families = {type(module) for module in plain.modules()}
    found = liger.install(ours)
    counts = [sum(isinstance(m, kind) for m in ours.modules()) for kind in (liger.Norm, liger.Gate)]
    turned = sum(type(m) not in families and not isinstance(m, liger.Norm | liger.Gate) for m in ours.modules())
    assert (*counts, turned) == TAKES_PART[name], found
    assert all("liger in" in said or said == "none" for said in found.values())
    stood_in.clear()
    for one, other in zip(outcome(ours), outcome(plain), strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-5)
    assert len(stood_in) == sum(TAKES_PART[name])


def test_what_is_trained_or_of_another_type_computes_itself(llama, stood_in):
    model = load(llama)
    liger.install(model)
    norm = model.model.norm
    x = torch.randn(3, 32)
    stood_in.clear()
    norm(x.double())
    norm.weight.requires_grad_(True)
    norm(x)
    assert stood_in == []
    norm.weight.requires_grad_(False)
    norm(x)
    assert stood_in == ["rms_norm.LigerRMSNormFunction"]


@pytest.mark.parametrize(
    ("name", "wrong", "kind"),
    [
        ("rms_norm.LigerRMSNormFunction", lambda x, *given: rms(x, *given) * 1.01, "norms"),
        ("swiglu.LigerSiLUMulFunction", lambda a, b: F.silu(a.detach()) * b + a.sum() * 0, "gates"),
        ("rope.LigerRopeFunction", lambda q, k, cos, sin: rope(q, k, sin, cos), "rotary"),
    ],
)
def test_a_kernel_that_is_wrong_stays_out(llama, stood_in, monkeypatch, name, wrong, kind):
    """In value, in gradient alone, and in what it does with its arguments."""
    monkeypatch.setitem(STAND_INS, name, Formula(wrong))
    plain, ours = load(llama), load(llama)
    found = liger.install(ours)
    assert found[kind].startswith("liger in 0 of ") and " off" in found[kind]
    assert sum("liger in 0" in said for said in found.values()) == 1
    for one, other in zip(outcome(ours), outcome(plain), strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-5)


def test_without_the_package_nothing_changes(llama, monkeypatch):
    def function(name):
        raise ImportError("No module named 'liger_kernel'")

    monkeypatch.setattr(liger, "function", function)
    model = load(llama)
    before = [type(module) for module in model.modules()]
    assert set(liger.install(model).values()) == {"not used: ImportError: No module named 'liger_kernel'"}
    assert [type(module) for module in model.modules()] == before


def test_a_trial_knows_what_is_further():
    exact = [torch.tensor([1.0, 2.0])]
    usual = [torch.tensor([1.0, 2.01])]
    assert trial.further([torch.tensor([1.02, 2.0])], usual, exact) == ""
    assert (
        trial.further([torch.tensor([1.05, 2.0])], usual, exact)
        == "result 0 is 0.05 off, where the formula is 0.01 off"
    )
    assert "nan" in trial.further([torch.tensor([float("nan"), 2.0])], usual, exact)
    assert "shape" in trial.further([torch.zeros(3)], usual, exact)


@GPU
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", sorted(TAKES_PART))
def test_on_a_gpu_the_kernels_stay_near_float32(name, dtype, models):
    plain, ours, exact = load(models(name), dtype, "cuda"), load(models(name), dtype, "cuda"), load(models(name))
    found = liger.install(ours)
    assert sum(isinstance(module, liger.Norm) for module in ours.modules()) == TAKES_PART[name][0], found
    for one, other, right in zip(outcome(ours, "cuda"), outcome(plain, "cuda"), outcome(exact), strict=True):
        off, usual = (float((x.cpu() - right).abs().max()) for x in (one, other))
        assert off <= 3 * usual + 1e-3 * float(right.abs().max())
