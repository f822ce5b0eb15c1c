"""Every token with its own adapter's matrices, by each of the ways in which they are multiplied."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch
from torch import nn

from truetune.engines.torch import routed
from truetune.engines.torch.routed import Routing, Segment, StackedLinear

NAMES = ("a", "b", "c")


@pytest.fixture
def layer():
    """Of three adapters: two of other ranks, and one that leaves this layer alone."""
    torch.manual_seed(0)
    made = StackedLinear(nn.Linear(24, 40).requires_grad_(False), Routing())
    for name, rank in (("a", 16), ("b", 32)):
        made.put(name, (torch.randn(rank, 24), torch.randn(rank, 40)))
    return made


def expected(layer, x, wanted):
    rows = []
    for row, name in zip(x, wanted, strict=True):
        A, B = layer.pairs.get(name, (torch.zeros(1, 24), torch.zeros(1, 40)))
        rows.append(layer.base(row) + row @ A.t() @ B)
    return torch.stack(rows)


WANTED = [
    ["a", "b", "c", "a", "b"],
    ["a", None, "b", "b", "b", "b", "b", None],
    [None, None, "c", "b"],
    ["b", "b", "a", None, None, None],  # those without come last
    ["a", "a", "a"],
]


@pytest.mark.parametrize("wanted", WANTED)
def test_single_tokens(layer, wanted):
    names = tuple(name for name in NAMES if name in wanted)
    index = torch.tensor([-1 if name is None else names.index(name) for name in wanted])
    layer.routing.set(names, None if len(names) == 1 and None not in wanted else index)
    x = torch.randn(1, len(wanted), 24)
    assert torch.allclose(layer(x)[0], expected(layer, x[0], wanted), atol=1e-4)


def test_texts(layer):
    """Some without an adapter, padding behind them."""
    wanted = ["a"] * 3 + [None] * 2 + ["b"] + ["c"] * 4 + ["a"] * 5 + [None]
    index = torch.tensor([-1 if name is None else NAMES.index(name) for name in wanted])
    cut = [Segment("a", 0, 3), Segment("b", 5, 6), Segment("c", 6, 10), Segment("a", 10, 15)]
    layer.routing.set(NAMES, index, cut)
    x = torch.randn(1, len(wanted), 24)
    assert torch.allclose(layer(x)[0], expected(layer, x[0], wanted), atol=1e-4)


def test_what_was_sorted_is_shared_for_the_same_inputs_only(layer):
    routing, wanted = layer.routing, ["a", "b", "a", "b"]
    routing.set(("a", "b"), torch.tensor([0, 1, 0, 1]))
    x = torch.randn(4, 24)
    first = routing.by_group(x)
    assert routing.by_group(x) is first
    assert torch.allclose(layer(x), expected(layer, x, wanted), atol=1e-4)
    x.mul_(2)  # in place: the same tensor with other values
    assert torch.allclose(layer(x), expected(layer, x, wanted), atol=1e-4)
    assert torch.allclose(layer(x.clone() + 1), expected(layer, x + 1, wanted), atol=1e-4)
    routing.set(("b", "a"), torch.tensor([0, 0, 1, 1]))
    assert torch.allclose(layer(x), expected(layer, x, ["b", "b", "a", "a"]), atol=1e-4)


def test_a_broken_adapter_spoils_no_neighbour(layer):
    """NaN in one adapter's matrices reaches its own tokens, and no others."""
    layer.put("b", (torch.full((16, 24), torch.nan), torch.full((16, 40), torch.nan)))
    x = torch.randn(6, 24)
    index = torch.tensor([0, 1, 0, 1, -1, -1])
    for cut in ((), [Segment("a", 0, 1), Segment("b", 1, 2), Segment("a", 2, 3), Segment("b", 3, 4)]):
        layer.routing.set(("a", "b"), index, cut)
        assert layer(x).isnan().any(1).tolist() == [False, True, False, True, False, False]


def test_sets_that_were_wanted_last_stand_ready(layer):
    x, index = torch.randn(4, 24), torch.tensor([0, 1, 0, 1])
    sets = [("a", "b"), ("b", "a"), ("a", "c")]
    for names in (*sets, sets[1]):
        layer.routing.set(names, index)
        layer(x)
        assert len(layer.joined) <= routed.KEPT
    assert [*layer.joined] == [sets[2], sets[1]]
    layer.put("a", None)
    assert not layer.joined
