"""A linear layer whose tokens each meet the matrices of their own adapter, or none.

Single tokens of running answers are sorted by adapter, so many places for each as the one with the most needs, and
every layer takes two batched products: [G, M, I] × [G, I, r] × [G, r, O]. Each token meets its own adapter's matrices
only; against one product with all of them below each other and a mask this is a G-th of the work, and nothing of a
row's sum depends on which other adapters are there. Texts that are read stand one behind another, and each is
multiplied by itself where launching a product costs next to nothing: nothing is sorted, filled up or joined for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from truetune.engines.torch import slots

KEPT = 2
"""Sets of adapters that stand ready, the ones that were multiplied last."""

Pair = tuple[torch.Tensor, torch.Tensor]
"""One adapter's part of one layer: A [r, I], and scale · Bᵀ [r, O]; of DoRA, times what its rows are stretched by."""


class Segment(NamedTuple):
    """Tokens `start … stop − 1` of a forward: one text's."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True)
class Groups:
    """A forward's tokens by adapter."""

    count: int
    """Adapters, G."""
    places: torch.Tensor
    """int64 [G · M]: the token at each place; where none is left for a group, any."""
    tokens: torch.Tensor | None
    """int64 [n]: the tokens that have an adapter; None where these are the first n."""
    back: torch.Tensor
    """int64 [n]: their places."""

    def to(self, device: torch.device | None) -> Groups:
        tokens = None if self.tokens is None else self.tokens.to(device)
        return Groups(self.count, self.places.to(device), tokens, self.back.to(device))


def grouped(tokens: torch.Tensor, count: int) -> Groups:
    """tokens int64 [N]: the adapter of each, below `count`; negative for none."""
    wanting = (tokens >= 0).nonzero()[:, 0]
    order = wanting[torch.argsort(tokens[wanting], stable=True)]
    owners = tokens[order]
    sizes = torch.bincount(owners, minlength=count)
    most = -(-int(sizes.max()) // slots.ROUND) * slots.ROUND
    first = sizes.cumsum(0) - sizes
    found = owners * most + torch.arange(len(order)) - first[owners]
    places = torch.zeros(count * most, dtype=torch.int64)
    places[found] = order
    back = torch.zeros_like(tokens).index_copy(0, order, found)[wanting]
    return Groups(count, places, None if int(wanting[-1]) < len(wanting) else wanting, back)


class Routing:
    """Which adapter each token of the running forward wants; shared by all layers."""

    def __init__(self) -> None:
        self.set()

    def set(
        self,
        names: tuple[str, ...] = (),
        tokens: torch.Tensor | None = None,
        segments: Sequence[Segment] = (),
        device: torch.device | None = None,
    ) -> None:
        """tokens int64 [N]: index into `names`, −1 for the base; None where all tokens want the same. With `segments`
        each is multiplied by itself."""
        self.names, self.segments = names, segments
        self.tokens = None if tokens is None else tokens.to(device)
        self.groups = None if tokens is None or segments else grouped(tokens, len(names)).to(device)
        self.seen: tuple[torch.Tensor, int] | None = None
        self.sorted: torch.Tensor | None = None

    def by_group(self, x: torch.Tensor) -> torch.Tensor:
        """x […, I] as the groups have it, [G, M, I]; layers that read the very same tensor share what was sorted."""
        assert self.groups is not None
        if self.sorted is None or self.seen is None or self.seen[0] is not x or self.seen[1] != x._version:
            flat = x.reshape(-1, x.shape[-1])
            self.sorted = flat.index_select(0, self.groups.places).view(self.groups.count, -1, x.shape[-1])
            self.seen = x, x._version
        return self.sorted


class StackedLinear(nn.Module):
    """A linear layer (`nn.Linear` or `Conv1D`) and the adapters that change it."""

    def __init__(self, base: nn.Module, routing: Routing) -> None:
        super().__init__()
        self.base, self.routing, self.bias = base, routing, base.bias
        self.pairs: dict[str, Pair] = {}
        self.gains: dict[str, torch.Tensor] = {}
        """Of DoRA, [O]: what the base's outputs are multiplied with."""
        self.joined: dict[tuple[str, ...], Pair] = {}
        """Adapters whose matrices stand one behind the other: the `KEPT` sets that were wanted last."""

    def put(self, name: str, pair: Pair | None, gain: torch.Tensor | None = None) -> None:
        """Set or forget an adapter's part."""
        if self.joined:
            self.joined = {names: pair for names, pair in self.joined.items() if name not in names}
        self.pairs.pop(name, None)
        self.gains.pop(name, None)
        if pair is not None:
            self.pairs[name] = pair
        if gain is not None:
            self.gains[name] = gain

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.base(x)
        routing = self.routing
        names = routing.names
        if not names or self.pairs.keys().isdisjoint(names):
            return y
        flat = self.stretched(y.view(-1, y.shape[-1]))
        if routing.segments:
            found = one_by_one(x.reshape(-1, x.shape[-1]), flat, self.pairs, routing.segments)
        elif routing.groups is None:
            found = together(x.reshape(-1, x.shape[-1]), flat, self.pairs[names[0]])
        else:
            found = product(routing.by_group(x), flat, self.join(names), routing.groups)
        return found.view(y.shape)

    def stretched(self, y: torch.Tensor) -> torch.Tensor:
        """The base's outputs y [N, O], each as long as its token's adapter has them."""
        if not self.gains:
            return y
        names = self.routing.names
        if self.gains.keys().isdisjoint(names):
            return y
        bias = 0 if self.bias is None else self.bias
        if self.routing.tokens is None:
            return (y - bias) * self.gains[names[0]] + bias
        ones = torch.ones_like(next(iter(self.gains.values())))
        gains = torch.stack([*(self.gains.get(name, ones) for name in names), ones])
        return (y - bias) * gains[self.routing.tokens] + bias  # −1, the base, is the last one

    def join(self, names: tuple[str, ...]) -> Pair:
        """The matrices of the active adapters, one behind the other, [G, r, I] and [G, r, O]; those of lower rank, or
        that leave this layer alone, are filled up with zeros."""
        found = self.joined.pop(names, None)
        if found is None:
            parts = [self.pairs.get(name) for name in names]
            found = stack([part and part[0] for part in parts]), stack([part and part[1] for part in parts])
        self.joined[names] = found
        while len(self.joined) > KEPT:
            del self.joined[next(iter(self.joined))]
        return found


def stack(parts: Sequence[torch.Tensor | None]) -> torch.Tensor:
    """One of the two matrices of each, [G, most ranks, D]."""
    here = [part for part in parts if part is not None]
    if len(here) == len(parts) and len({len(part) for part in here}) == 1:
        return torch.stack(here)
    found = here[0].new_zeros(len(parts), max(map(len, here)), here[0].shape[1])
    for place, part in zip(found, parts, strict=True):
        if part is not None:
            place[: len(part)] = part
    return found


def product(x: torch.Tensor, y: torch.Tensor, pair: Pair, groups: Groups) -> torch.Tensor:
    """y + x Aᵀ B, into y, with each token's own A and B. x [G, M, I], y [N, O]; A [G, r, I], B [G, r, O]."""
    changes = torch.bmm(torch.bmm(x, pair[0].transpose(1, 2)), pair[1]).view(-1, y.shape[1])
    own = changes.index_select(0, groups.back)
    if groups.tokens is not None:
        return y.index_add_(0, groups.tokens, own)
    y[: len(own)].add_(own)
    return y


def together(x: torch.Tensor, y: torch.Tensor, pair: Pair) -> torch.Tensor:
    """As `product` where all tokens have one adapter, and in the same way, so that a row has the same bits as among
    others. x [N, I], y [N, O]; A [r, I], B [r, O]."""
    return y.add_(torch.bmm(torch.bmm(x[None], pair[0].t()[None]), pair[1][None])[0])


def one_by_one(
    x: torch.Tensor, y: torch.Tensor, pairs: Mapping[str, Pair], segments: Sequence[Segment]
) -> torch.Tensor:
    """y + x Aᵀ B, into y, text by text: what else is read changes neither the products' shapes nor their bits."""
    for name, start, stop in segments:
        pair = pairs.get(name)
        if pair is not None:
            y[start:stop].addmm_(torch.mm(x[start:stop], pair[0].t()), pair[1])
    return y
