"""Adapters beside each other over one base: rows of different adapters, and of none, in one forward.

A forward's tokens are sorted by adapter, so many places for each as the one with the most needs, and every layer takes
two batched products: [G, M, I] × [G, I, r] × [G, r, O]. Each token meets its own adapter's matrices only; against one
product with all of them below each other and a mask this is a G-th of the work, and nothing of a row's sum depends on
which other adapters are there. `Groups` and `product` are the one place that knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from truetune.engines import adapter, family
from truetune.engines.decoder import Prepared
from truetune.engines.torch import dora, factors, files, fronts, lora, slots, swapped

RANKS = 16
"""Sums over ranks are made over a multiple of so many: then further ranks of zeros, which stand there for the sake of
other adapters, change no bit. Measured on one kind of CPU."""

KEPT = 2
"""Sets of adapters that stand ready: those of running answers, and those of the prompts that are read between them."""

Pair = tuple[torch.Tensor, torch.Tensor]
"""One adapter's part of one layer: A [r, I], and scale · Bᵀ [r, O]; of DoRA, times what its rows are stretched by."""


@dataclass(frozen=True)
class Groups:
    """A forward's tokens by adapter."""

    places: torch.Tensor
    """int64 [G · M]: the token at each place; where none is left for a group, any."""
    tokens: torch.Tensor
    """int64 [n]: the tokens that have an adapter."""
    back: torch.Tensor
    """int64 [n]: their places."""


def grouped(tokens: torch.Tensor, count: int) -> Groups:
    """tokens int64 [N]: the adapter of each, below `count`; negative for none."""
    order = torch.argsort(tokens, stable=True)
    order = order[tokens[order] >= 0]
    owners = tokens[order]
    sizes = torch.bincount(owners, minlength=count)
    most = -(-int(sizes.max()) // slots.ROUND) * slots.ROUND
    first = sizes.cumsum(0) - sizes
    back = owners * most + torch.arange(len(order)) - first[owners]
    places = torch.zeros(count * most, dtype=torch.int64)
    places[back] = order
    return Groups(places, order, back)


class Routing:
    """Which adapter each token of the running forward wants; shared by all layers."""

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self.tokens: torch.Tensor | None = None
        """int64 [N]: index into `names`, −1 for the base; None where all tokens want the same."""
        self.groups: Groups | None = None

    def set(self, names: tuple[str, ...], tokens: torch.Tensor | None, device: torch.device | None = None) -> None:
        self.names, self.tokens, self.groups = names, tokens, None
        if tokens is not None:
            found = grouped(tokens, len(names))
            self.groups = Groups(*(part.to(device) for part in (found.places, found.tokens, found.back)))
            self.tokens = tokens.to(device)


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
        self.joined = {names: pair for names, pair in self.joined.items() if name not in names}
        self.pairs.pop(name, None)
        self.gains.pop(name, None)
        if pair is not None:
            self.pairs[name] = pair
        if gain is not None:
            self.gains[name] = gain

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.base(x)
        names = self.routing.names
        if not names or self.pairs.keys().isdisjoint(names):
            return y
        flat = x.reshape(-1, x.shape[-1])
        return product(flat, self.stretched(y.view(len(flat), -1)), self.join(names), self.routing.groups).view(y.shape)

    def stretched(self, y: torch.Tensor) -> torch.Tensor:
        """The base's outputs y [N, O], each as long as its token's adapter has them."""
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
        that leave this layer alone, are filled up with zeros. Of a single adapter its own."""
        if self.routing.groups is None:
            return self.pairs[names[0]]
        found = self.joined.pop(names, None)
        if found is None:
            parts = [self.pairs.get(name) for name in names]
            here = [part for part in parts if part is not None]
            found = stack(parts, here, 0), stack(parts, here, 1)
        self.joined[names] = found
        while len(self.joined) > KEPT:
            del self.joined[next(iter(self.joined))]
        return found


def stack(parts: Sequence[Pair | None], here: Sequence[Pair], side: int) -> torch.Tensor:
    """One of the two matrices of each, [G, most ranks, D]."""
    rank = max(len(pair[side]) for pair in here)
    found = here[0][side].new_zeros(len(parts), rank, here[0][side].shape[1])
    for place, pair in zip(found, parts, strict=True):
        if pair is not None:
            place[: len(pair[side])] = pair[side]
    return found


def product(x: torch.Tensor, y: torch.Tensor, pair: Pair, groups: Groups | None) -> torch.Tensor:
    """y + x Aᵀ B, into y, with each token's own A and B. x [N, I], y [N, O]; A [G, r, I], B [G, r, O], or without
    groups [r, I] and [r, O]."""
    if groups is None:  # in the same way, so that a row has the same bits among others
        return y.add_(torch.bmm(torch.bmm(x[None], pair[0].t()[None]), pair[1][None])[0])
    sorted_ = x.index_select(0, groups.places).view(len(pair[0]), -1, x.shape[1])
    changes = torch.bmm(torch.bmm(sorted_, pair[0].transpose(1, 2)), pair[1]).view(-1, y.shape[1])
    return y.index_add_(0, groups.tokens, changes.index_select(0, groups.back))


class Adapters:
    """The adapters of one model. Layers are wrapped when the first adapter wants them."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.routing = Routing()
        self.linears = {name: model.get_submodule(name) for name in lora.linear_names(model)}
        self.layers: dict[str, StackedLinear] = {}
        self.fronts: dict[str, fronts.Front] = {}
        self.swapped = swapped.Swapped()
        self.names: list[str] = []
        self.standing: list[tuple[str, ...]] = []
        """The sets that were multiplied last, the latest first."""

    def read(self, folder: Path) -> Prepared:
        """An adapter's files, checked: for any thread, so nothing here touches what rows are computed with. What needs
        the model itself is done by `put`."""
        body = adapter.read_config(folder, adapter.KINDS)
        tensors = files.load(folder / adapter.WEIGHTS, "adapter.damaged")
        if body["peft_type"] == "LORA":
            body, found = family.read(folder, tensors)
            ready = None if found.dora or found.alone else plain(folder, body, found, tensors, self.model, self.linears)
            return Prepared(not found.alone, Parts(folder, body, {} if ready else tensors, found, ready))
        return Prepared(True, Parts(folder, body, tensors))

    def put(self, name: str, prepared: Prepared) -> None:
        """Have an adapter that maps one to one; one of that name is replaced only then."""
        parts: Parts = prepared.parts
        if parts.layout:
            self.put_lora(name, parts, parts.layout)
        elif parts.body["peft_type"] == "IA3":
            weight = next(self.model.parameters())
            found = factors.read(parts.folder, parts.body, parts.tensors, self.linears, weight)
            self.forget(name)
            for layer, factor in found.items():
                self.factored(layer).put(name, factor)
        else:
            front = fronts.read(parts.folder, parts.body, parts.tensors, self.model)
            self.forget(name)
            self.fronts[name] = front
        self.names.append(name)

    def put_lora(self, name: str, parts: Parts, found: family.Layout) -> None:
        changes, replaced = parts.changes, []
        if changes is None:
            self.swapped.set(None)
            changes, replaced = read(parts, found, self.model, self.linears)
        weight = next(self.model.parameters())
        ready = {layer: moved(change, weight) for layer, change in changes.items()}
        self.forget(name)
        self.swapped.add(name, replaced)
        for layer, change in ready.items():
            self.layer(layer).put(name, *change)

    def factored(self, name: str) -> factors.Factored:
        """The layer of this name, ready for factors."""
        layer = self.layer(name)
        if not isinstance(layer.base, factors.Factored):
            layer.base = factors.Factored(layer.base, self.routing)
        return layer.base

    def front(self, name: str | None) -> fronts.Front | None:
        """What stands before the rows of an adapter."""
        return self.fronts.get(name) if name else None

    def drop(self, name: str) -> None:
        if name not in self.names:
            raise KeyError(name)
        self.forget(name)

    def forget(self, name: str) -> None:
        if name in self.routing.names:
            self.routing.set((), None)
        self.standing = [names for names in self.standing if name not in names]
        self.fronts.pop(name, None)
        self.swapped.forget(name)
        for layer in self.layers.values():
            layer.put(name, None)
            if isinstance(layer.base, factors.Factored):
                layer.base.put(name, None)
        self.names = [other for other in self.names if other != name]

    def layer(self, name: str) -> StackedLinear:
        if name not in self.layers:
            parent, _, child = name.rpartition(".")
            self.layers[name] = StackedLinear(self.linears[name], self.routing)
            setattr(self.model.get_submodule(parent), child, self.layers[name])
        return self.layers[name]

    def alone(self, name: str | None) -> bool:
        """Whether rows of this adapter cannot be computed together with others."""
        return name in self.swapped.parts

    def route(self, wanted: Sequence[str | None], counts: Sequence[int], total: int) -> None:
        """The next forward holds `counts[i]` tokens for the adapter `wanted[i]`, and padding up to `total`."""
        active = {name for name in wanted if name is not None}
        if len({*wanted}) > 1 and any(map(self.alone, active)):
            raise ValueError("an adapter that replaces parts of the model is computed by itself")
        self.swapped.set(next(iter(active), None))
        if not active:
            return self.routing.set((), None)
        if len(active) == 1 and None not in wanted:
            return self.routing.set((*active,), None)
        names = self.stack(active)
        index = torch.full((total,), -1)
        place = {name: at for at, name in enumerate(names)}
        each = torch.tensor([-1 if name is None else place[name] for name in wanted])
        index[: sum(counts)] = torch.repeat_interleave(each, torch.tensor(counts))
        return self.routing.set(names, index, self.model.device)

    def stack(self, active: set[str]) -> tuple[str, ...]:
        """The adapters that are multiplied. A set that stands is taken while at least half of it is in use: joining
        copies matrices, and rows come and go all the time."""
        own = tuple(name for name in self.names if name in active)
        fitting = (names for names in self.standing if active <= set(names) and len(names) <= 2 * len(active))
        found = next(fitting, own)
        self.standing = [found, *(names for names in self.standing if names != found)][:KEPT]
        return found


Change = tuple[Pair, torch.Tensor | None]
"""An adapter's matrices of a layer, and its gain."""


@dataclass(frozen=True)
class Parts:
    """An adapter that was read: its configuration and tensors, and where nothing more is needed, what it changes."""

    folder: Path
    body: dict
    tensors: dict[str, torch.Tensor]
    layout: family.Layout | None = None
    """Of LoRA's family."""
    changes: dict[str, Change] | None = None


def plain(
    folder: Path,
    body: dict,
    found: family.Layout,
    tensors: dict[str, torch.Tensor],
    model: nn.Module,
    linears: dict[str, nn.Module],
) -> dict[str, Change]:
    """What an adapter changes that has nothing but A and B: all that is needed of the model are its shapes."""
    layers = targets(body, found, linears)
    refuse(folder, body, layers, found, linears, tensors, {})
    dtype = next(model.parameters()).dtype
    return {name: (pair(name, tensors, found.scale, dtype), None) for name in layers}


def targets(body: dict, found: family.Layout, linears: dict[str, nn.Module]) -> list[str]:
    """The layers that an adapter changes by A and B."""
    layers = adapter.chosen(linears, body.get("target_modules") or [])
    return [name for name in layers if not family.within(name, found)]


def refuse(folder, body, layers, found, linears, tensors, more) -> None:  # type: ignore[no-untyped-def]
    """Raises InputError `adapter.mismatch` where the file's tensors are not those of these layers, and `more`."""
    shapes = dict(more)
    for name in layers:
        inside, outside = sides(linears[name])
        shapes |= {adapter.key(name, "A"): (body["r"], inside), adapter.key(name, "B"): (outside, body["r"])}
        shapes |= {f"{adapter.PREFIX}{name}{family.MAGNITUDE}": (outside,)} if found.dora else {}
    here = {name: tensor.shape for name, tensor in tensors.items()}
    adapter.refuse_mismatch(shapes, here, str(folder / adapter.WEIGHTS))


def read(
    parts: Parts, found: family.Layout, model: nn.Module, linears: dict[str, nn.Module]
) -> tuple[dict[str, Change], list[swapped.Part]]:
    """Layer -> what changes it, ready for use, for exactly the layers that the adapter's configuration names; and what
    the adapter replaces besides."""
    body, tensors, layers = parts.body, parts.tensors, targets(parts.body, found, linears)
    refuse(parts.folder, body, layers, found, linears, tensors, swapped.places(model, found, tensors))
    weight = next(model.parameters())
    changes = {name: change(name, linears[name], tensors, found, weight) for name in layers}
    return changes, swapped.parts(model, found, tensors)


def pair(name: str, tensors: dict[str, torch.Tensor], scale: float, dtype: torch.dtype) -> Pair:
    """A and scale · Bᵀ of a layer."""
    A, B = (tensors[adapter.key(name, matrix)].float() for matrix in "AB")
    return A.to(dtype), (B * scale).t().contiguous().to(dtype)


def moved(change: Change, like: torch.Tensor) -> Change:
    """On the model's device, with ranks of zeros up to a multiple of `RANKS`."""
    both, gain = change
    A, B = (F.pad(one, (0, 0, 0, -len(one) % RANKS)).to(like.device) for one in both)
    return (A, B), gain if gain is None else gain.to(like.device)


def change(
    name: str, layer: nn.Module, tensors: dict[str, torch.Tensor], found: family.Layout, like: torch.Tensor
) -> Change:
    A, B = (tensors[adapter.key(name, matrix)].to(like.device).float() for matrix in "AB")
    gain = None
    if found.dora:
        weight = layer.weight.t() if isinstance(layer, lora.Conv1D) else layer.weight
        lengths = dora.norms(weight, dora.squares(weight), (A, B), found.scale)
        gain = tensors[f"{adapter.PREFIX}{name}{family.MAGNITUDE}"].to(like.device).float() / lengths
        B = gain[:, None] * B
    both = A.to(like.dtype), (B * found.scale).t().contiguous().to(like.dtype)
    return both, None if gain is None else gain.to(like.dtype)


def sides(layer: nn.Module) -> tuple[int, int]:
    """(inputs, outputs) of a linear layer; GPT-2's `Conv1D` keeps its weight transposed."""
    first, second = layer.weight.shape
    return (first, second) if isinstance(layer, lora.Conv1D) else (second, first)
