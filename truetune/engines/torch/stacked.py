"""The adapters of one model: their files read and checked, and which of them the next forward's tokens want."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from truetune.engines import adapter, family
from truetune.engines.decoder import Prepared
from truetune.engines.torch import dora, factors, files, fronts, lora, swapped
from truetune.engines.torch.routed import KEPT, Pair, Routing, Segment, StackedLinear

RANKS = 16
"""Sums over ranks are made over a multiple of so many: then further ranks of zeros, which stand there for the sake of
other adapters, change no bit. Measured on one kind of CPU."""


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
            sure = ready is not None and self.model.device.type == "cpu"
            return Prepared(not found.alone, Parts(folder, body, {} if ready else tensors, found, ready), sure)
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
            self.routing.set()
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

    def route(self, wanted: Sequence[str | None], counts: Sequence[int], total: int, *, steps: bool = False) -> None:
        """The next forward holds `counts[i]` tokens for the adapter `wanted[i]`, and padding up to `total`. `steps`:
        single tokens of answers that go on; else texts that are read."""
        active = {name for name in wanted if name is not None}
        if len({*wanted}) > 1 and any(map(self.alone, active)):
            raise ValueError("an adapter that replaces parts of the model is computed by itself")
        self.swapped.set(next(iter(active), None))
        if not active:
            return self.routing.set()
        apart = not steps and self.model.device.type == "cpu"
        segments = cut(wanted, counts) if apart else ()
        if len(active) == 1 and None not in wanted:
            return self.routing.set((*active,), None, segments)
        names = self.own(active) if apart else self.stack(active)
        index = torch.full((total,), -1)
        place = {name: at for at, name in enumerate(names)}
        each = torch.tensor([-1 if name is None else place[name] for name in wanted])
        index[: sum(counts)] = torch.repeat_interleave(each, torch.tensor(counts))
        return self.routing.set(names, index, segments, self.model.device)

    def own(self, active: set[str]) -> tuple[str, ...]:
        return tuple(name for name in self.names if name in active)

    def stack(self, active: set[str]) -> tuple[str, ...]:
        """The adapters that are multiplied. A set that stands is taken while at least half of it is in use: joining
        copies matrices, and rows come and go all the time."""
        fitting = (names for names in self.standing if active <= set(names) and len(names) <= 2 * len(active))
        found = next(fitting, None) or self.own(active)
        self.standing = [found, *(names for names in self.standing if names != found)][:KEPT]
        return found


def cut(wanted: Sequence[str | None], counts: Sequence[int]) -> list[Segment]:
    """Where the texts of a forward stand that want an adapter."""
    ends = itertools.accumulate(counts)
    return [
        Segment(name, end - count, end)
        for name, count, end in zip(wanted, counts, ends, strict=True)
        if name is not None
    ]


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
    """A and scale · Bᵀ of a layer, in memory of their own: a file that is written over may show in its tensors."""
    A, B = (tensors[adapter.key(name, matrix)].float() for matrix in "AB")
    return filled(A.to(dtype, copy=True)), filled((B * scale).t().contiguous().to(dtype))


def moved(change: Change, like: torch.Tensor) -> Change:
    """On the model's device, filled."""
    both, gain = change
    A, B = (filled(one).to(like.device) for one in both)
    return (A, B), gain if gain is None else gain.to(like.device)


def filled(matrix: torch.Tensor) -> torch.Tensor:
    """A matrix [r, D] with ranks of zeros up to a multiple of `RANKS`."""
    missing = -len(matrix) % RANKS
    return F.pad(matrix, (0, 0, 0, missing)) if missing else matrix


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
