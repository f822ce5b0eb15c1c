"""Attention over segments beside the plain formula with one mask for the whole row: values and gradients."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from truetune.engines.torch import attention  # noqa: E402

SEGMENTS = ((0, 5), (5, 6), (6, 13))
SHARED = ((0, 6), (6, 9, 0, 4), (9, 13))
"""The second text begins with the first four tokens of the first."""


class Layer(torch.nn.Module):
    is_causal = True


def visible(segments, window):
    """bool [T, T]: which tokens each sees, by the definition."""
    total = segments[-1][1]
    found = torch.zeros(total, total, dtype=torch.bool)
    for start, end, *lead in segments:
        line = [*range(*lead), *range(start, end)] if lead else list(range(start, end))
        for place in range(start, end):
            at = line.index(place)
            near = line[max(0, at + 1 - (window or total)) : at + 1]
            found[place, near] = True
    return found


def plain(query, key, value, segments, scaling, window, softcap):
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    scores = query @ key.transpose(2, 3) * scaling
    scores = scores if softcap is None else torch.tanh(scores / softcap) * softcap
    weights = scores.masked_fill(~visible(segments, window), float("-inf")).softmax(-1)
    return (weights @ value).transpose(1, 2)


@pytest.mark.parametrize("segments", [SEGMENTS, SHARED, ((0, 13),)])
@pytest.mark.parametrize("keys", [6, 2])
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (3, None), (None, 2.0), (3, 2.0)])
def test_segments_equal_the_plain_formula(segments, keys, window, softcap):
    torch.manual_seed(0)
    leaves = [torch.randn(1, heads, 13, 8, requires_grad=True) for heads in (6, keys, keys)]
    upstream = torch.randn(1, 13, 6, 8)
    settings = {"segments": segments, "scaling": 0.3, "softcap": softcap}
    ours, weights = attention.packed(Layer(), *leaves, None, sliding_window=window, **settings)
    theirs = plain(*leaves, window=window, **settings)
    assert weights is None
    assert torch.allclose(ours, theirs, atol=1e-5)
    for one, other in zip(
        torch.autograd.grad(ours, leaves, upstream), torch.autograd.grad(theirs, leaves, upstream), strict=True
    ):
        assert torch.allclose(one, other, atol=1e-5)
