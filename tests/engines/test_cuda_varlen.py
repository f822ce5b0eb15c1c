"""Attention of all segments in one call: the formula beside the loop, the call as the installed torch takes it, and on
a GPU the kernel itself."""

from __future__ import annotations

from itertools import pairwise

import pytest

pytest.importorskip("torch")

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from truetune.engines.torch import attention, varlen

SEGMENTS = ((0, 5), (5, 6), (6, 43), (43, 60))
CASES = [(4, 4, None), (4, 2, None), (6, 2, 7), (4, 1, 1)]
"""Heads, heads of keys, window."""
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU: the varlen kernel is NOT tested here")


def numbers(heads, kv_heads, dim=16, device="cpu", dtype=torch.float32):
    draw = torch.Generator().manual_seed(1)
    shapes = [(1, count, 60, dim) for count in (heads, kv_heads, kv_heads)]
    return [torch.randn(shape, generator=draw).to(device, dtype).requires_grad_() for shape in shapes]


def loop(query, key, value, segments, scaling, window):
    module = torch.nn.Module()
    return attention.packed(module, query, key, value, None, scaling, 0.0, segments, sliding_window=window)[0]


def results(way, leaves, window, scaling=0.3):
    result = way(*leaves, SEGMENTS, scaling, window)
    upstream = torch.randn(result.shape, generator=torch.Generator().manual_seed(2)).to(result)
    return [result, *torch.autograd.grad(result, leaves, upstream)]


def reference(query, key, value, begins, others, longest, other, *, scale, window_size, enable_gqa):
    """torch's `varlen_attn` by its documentation: [T, heads, D], window (left, 0) counts those before a token."""
    ends = begins.tolist()
    segments = tuple(pairwise(ends))
    assert begins.dtype == torch.int32 and longest == other == max(end - start for start, end in segments)
    assert enable_gqa or query.shape[1] == key.shape[1]
    assert window_size[1] == 0
    left = None if window_size[0] == -1 else window_size[0] + 1
    back = (x.transpose(0, 1)[None] for x in (query, key, value))
    return varlen.plain(*back, segments, scale, left)[0]


@pytest.mark.parametrize(("heads", "kv_heads", "window"), CASES)
def test_the_formula_and_the_call_are_the_loop(heads, kv_heads, window, monkeypatch):
    """Values and gradients; the kernel is stood in for by the documented meaning of its arguments."""
    expected = results(loop, numbers(heads, kv_heads), window)
    monkeypatch.setattr(varlen, "kernel", lambda: reference)
    for way in (varlen.plain, varlen.attend):
        found = results(way, numbers(heads, kv_heads), window)
        for one, other in zip(found, expected, strict=True):
            assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("heads", "kv_heads", "window"), CASES)
def test_the_installed_torch_takes_the_call(heads, kv_heads, window):
    """With tensors that have shapes and no numbers; forward and backward."""
    varlen.bounds.cache_clear()
    with FakeTensorMode():
        leaves = [
            torch.empty(1, n, 60, 16, dtype=torch.bfloat16, requires_grad=True) for n in (heads, kv_heads, kv_heads)
        ]
        result = varlen.attend(*leaves, SEGMENTS, None, window)
        assert result.shape == (1, 60, heads, 16) and result.dtype == torch.bfloat16
        result.backward(torch.empty_like(result))
        assert [leaf.grad.shape for leaf in leaves] == [leaf.shape for leaf in leaves]
    varlen.bounds.cache_clear()


class OnGpu:
    """As much of a tensor on a GPU as `takes` looks at."""

    is_cuda, device = True, torch.device("cuda:0")

    def __init__(self, dtype=torch.bfloat16):
        self.dtype, self.shape = dtype, (1, 4, 60, 16)


def test_it_takes_what_it_can_express_and_leaves_the_rest(monkeypatch):
    asked = []
    monkeypatch.setattr(varlen, "refusal", lambda *case: asked.append(case) or "")
    q = OnGpu()
    assert varlen.takes(q, q, SEGMENTS, None, 0.0)
    assert varlen.takes(q, q, ((0, 60),), None, 0.0, window=8)
    assert not varlen.takes(q, q, ((0, 60),), None, 0.0)  # SDPA's
    assert not varlen.takes(q, q, ((0, 30), (30, 60, 0, 12)), None, 0.0)  # a beginning that two texts share
    assert not varlen.takes(q, q, SEGMENTS, 30.0, 0.0)
    assert not varlen.takes(q, q, SEGMENTS, None, 0.1)
    assert not varlen.takes(OnGpu(torch.float32), q, SEGMENTS, None, 0.0)
    assert not varlen.takes(*numbers(4, 4)[:2], SEGMENTS, None, 0.0)
    assert asked == [(q.device, q.dtype, 4, 4, 16, None), (q.device, q.dtype, 4, 4, 16, 8)]
    monkeypatch.setattr(varlen, "refusal", lambda *case: "it is wrong")
    assert not varlen.takes(q, q, SEGMENTS, None, 0.0)


def test_a_wrong_kernel_is_refused_with_the_reason(monkeypatch):
    """The trial itself, on the processor."""

    def verdict(kernel):
        monkeypatch.setattr(varlen, "kernel", kernel)
        varlen.refusal.cache_clear()
        return varlen.refusal(torch.device("cpu"), torch.bfloat16, 4, 2, 16, 9)

    def absent():
        raise ImportError("no such part")

    def broken(*given, **keys):
        raise RuntimeError("head dimension must be a multiple of 8\nand more")

    def blind(q, k, v, *given, **keys):
        return reference(q, k, v.detach(), *given, **keys) + v.sum() * 0

    before = torch.get_rng_state()
    assert verdict(lambda: reference) == ""
    assert verdict(lambda: lambda *a, **k: reference(*a, **k) * 1.2).startswith("result 0 is")
    assert verdict(lambda: blind).startswith("result 3 is")  # its value is right, the values' gradient is not
    assert verdict(lambda: lambda *a, **k: reference(*a, **k) / 0 * 0).startswith("result 0 is nan")
    assert verdict(absent) == "ImportError: no such part"
    assert verdict(lambda: broken) == "RuntimeError: head dimension must be a multiple of 8"
    assert torch.equal(torch.get_rng_state(), before)
    varlen.refusal.cache_clear()


@GPU
@pytest.mark.parametrize(("heads", "kv_heads", "window"), CASES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_on_a_gpu_the_kernel_is_the_formula(heads, kv_heads, window, dtype):
    device = torch.device("cuda", torch.cuda.current_device())
    assert varlen.refusal(device, dtype, heads, kv_heads, 64, window) == ""
    leaves = numbers(heads, kv_heads, 64, "cuda", dtype)
    exact = results(varlen.plain, [leaf.detach().float().requires_grad_() for leaf in leaves], window)
    assert varlen.takes(leaves[0], leaves[1], SEGMENTS, None, 0.0, window)
    for one, other in zip(results(loop, leaves, window), exact, strict=True):
        assert float((one.float() - other).abs().max()) < 0.03 * float(other.abs().max())
