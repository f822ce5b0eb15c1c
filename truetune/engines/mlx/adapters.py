"""Adapters beside each other over one base; a forward runs with one of them, or with none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from truetune.engines import adapter, family
from truetune.engines.decoder import Prepared
from truetune.engines.mlx import dora, files
from truetune.engines.mlx import model as models
from truetune.engines.mlx.adamw import Arrays
from truetune.errors import InputError

Pair = tuple[mx.array, mx.array]
"""One adapter's part of one layer: Aᵀ [in, r], and scale · Bᵀ [r, out]; of DoRA, times what rows are stretched by."""
Change = tuple[Pair, mx.array | None]
"""With what the base's outputs are multiplied by, [out], where there is such a thing."""


class Routing:
    """The adapter that the running forward wants; shared by all layers."""

    name: str | None = None


class Switched(nn.Module):
    """A linear layer and the adapters that change it."""

    def __init__(self, base: nn.Linear, routing: Routing) -> None:
        super().__init__()
        self.base = base
        self._routing, self._changes = routing, dict[str, Change]()

    def put(self, name: str, change: Change | None) -> None:
        """Set or forget an adapter's part."""
        self._changes.pop(name, None)
        if change is not None:
            self._changes[name] = change

    def __call__(self, x: mx.array) -> mx.array:
        change = self._changes.get(self._routing.name or "")
        if change is None:
            return self.base(x)
        (A, B), gain = change
        return (self.base(x) if gain is None else self.stretched(x, gain)) + (x @ A) @ B

    def stretched(self, x: mx.array, gain: mx.array) -> mx.array:
        """The base's outputs, each as long as the adapter has them."""
        y = (x @ self.base.weight.T) * gain
        return y + self.base.bias if "bias" in self.base else y


class Adapters:
    """The adapters of one model, by name. What they replace whole is in the model while it runs with them; the head
    must be the model's own, since an adapter may have another than the embedding."""

    def __init__(self, model: nn.Module) -> None:
        owners = dict(model.named_modules())
        self.places = {name: place(owners, name) for name, _ in tree_flatten(model.parameters())}
        """Name of a parameter -> the module that has it, and what it is called there."""
        self.routing = Routing()
        self.layers = {name: Switched(base, self.routing) for name, base in models.linears(model).items()}
        model.update_modules(tree_unflatten(list(self.layers.items())))
        self.whole: dict[str, Arrays] = {}

    @property
    def names(self) -> set[str]:
        return {*self.whole}

    def read(self, folder: Path) -> Prepared:
        """Where an adapter is. Its arrays belong to the thread that computes with them, so `put` reads them."""
        adapter.read_config(folder)
        return Prepared(False, folder)

    def put(self, name: str, found: Prepared) -> None:
        """Read an adapter and check that it maps one to one; one of that name is replaced only then."""
        changes, self.whole[name] = self.changes(found.parts)
        for layer, one in self.layers.items():
            one.put(name, changes.get(layer))

    def drop(self, name: str) -> None:
        del self.whole[name]
        for one in self.layers.values():
            one.put(name, None)

    @contextmanager
    def using(self, name: str | None) -> Iterator[None]:
        """Forwards in here run with this adapter."""
        self.routing.name = name
        before = self.swap(self.whole.get(name or "", {}))
        try:
            yield
        finally:
            self.routing.name = None
            self.swap(before)

    def swap(self, values: Mapping[str, mx.array]) -> Arrays:
        """Set parameters; returns what undoes that."""
        before = {}
        for name, value in values.items():
            owner, own = self.places[name]
            before[name], owner[own] = owner[own], value
        return before

    def changes(self, folder: Path) -> tuple[dict[str, Change], Arrays]:
        """Layer -> what changes it, ready for use, for exactly the layers that the adapter's configuration names; and
        the parameters that the adapter replaces."""
        path = folder / adapter.WEIGHTS
        tensors = files.load(path, "adapter.damaged")
        body, found = family.read(folder, tensors)
        refuse_rows(found, path)
        chosen = adapter.chosen(self.layers, body.get("target_modules") or [])
        chosen = [name for name in chosen if not family.within(name, found)]
        places = {adapter.PREFIX + name: self.value(name).shape for name in found.whole if name in self.places}
        for name in chosen:
            outside, inside = self.layers[name].base.weight.shape
            places |= {adapter.key(name, "A"): (body["r"], inside), adapter.key(name, "B"): (outside, body["r"])}
            places |= {f"{adapter.PREFIX}{name}{family.MAGNITUDE}": (outside,)} if found.dora else {}
        adapter.refuse_mismatch(places, models.shapes(tensors), str(path))
        changes = {name: change(name, self.layers[name].base.weight, tensors, found) for name in chosen}
        return changes, {name: tensors[adapter.PREFIX + name].astype(self.value(name).dtype) for name in found.whole}

    def value(self, name: str) -> mx.array:
        owner, own = self.places[name]
        value: mx.array = owner[own]
        return value


def place(owners: Mapping[str, nn.Module], name: str) -> tuple[nn.Module, str]:
    owner, _, own = name.rpartition(".")
    return owners[owner], own


def change(name: str, weight: mx.array, tensors: Arrays, found: family.Layout) -> Change:
    A, B = (tensors[adapter.key(name, matrix)].astype(mx.float32) for matrix in "AB")
    gain = None
    if found.dora:
        lengths = dora.norms(weight, dora.squares(weight), A, B, found.scale)
        gain = tensors[f"{adapter.PREFIX}{name}{family.MAGNITUDE}"].astype(mx.float32) / lengths
        B = gain[:, None] * B
        gain = gain.astype(weight.dtype)
    return (A.T.astype(weight.dtype), (B.T * found.scale).astype(weight.dtype)), gain


def refuse_rows(found: family.Layout, path: Path) -> None:
    """Raises InputError `adapter.unsupported` for an adapter that changes the rows of single tokens."""
    if found.rows:
        raise InputError(
            "this adapter has trained the rows of single tokens, which MLX does not compute",
            code="adapter.unsupported",
            where=str(path),
            hint="Use it where torch is installed, or merge it into its base first.",
        )
