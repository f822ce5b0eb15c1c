"""Adapters beside each other over one base; a forward runs with one of them, or with none."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from truetune.engines import adapter
from truetune.engines.mlx import files
from truetune.engines.mlx import model as models
from truetune.errors import InputError

Pair = tuple[mx.array, mx.array]
"""One adapter's part of one layer: Aᵀ [in, r], and scale · Bᵀ [r, out]."""


class Routing:
    """The adapter that the running forward wants; shared by all layers."""

    name: str | None = None


class Switched(nn.Module):
    """A linear layer and the adapters that change it."""

    def __init__(self, base: nn.Linear, routing: Routing) -> None:
        super().__init__()
        self.base = base
        self._routing, self._pairs = routing, dict[str, Pair]()

    def put(self, name: str, pair: Pair | None) -> None:
        """Set or forget an adapter's part."""
        self._pairs.pop(name, None)
        if pair is not None:
            self._pairs[name] = pair

    def __call__(self, x: mx.array) -> mx.array:
        y, pair = self.base(x), self._pairs.get(self._routing.name or "")
        return y if pair is None else y + (x @ pair[0]) @ pair[1]


class Adapters:
    """The adapters of one model, by name."""

    def __init__(self, model: nn.Module) -> None:
        self.routing = Routing()
        self.layers = {name: Switched(base, self.routing) for name, base in models.linears(model).items()}
        model.update_modules(tree_unflatten(list(self.layers.items())))
        self.names: set[str] = set()

    def load(self, name: str, folder: Path) -> None:
        """Read an adapter and check that it maps one to one; one of that name is replaced only then."""
        pairs = read(folder, self.layers)
        for layer, one in self.layers.items():
            one.put(name, pairs.get(layer))
        self.names.add(name)

    def drop(self, name: str) -> None:
        self.names.remove(name)
        for one in self.layers.values():
            one.put(name, None)


def read(folder: Path, layers: dict[str, Switched]) -> dict[str, Pair]:
    """Layer -> its matrices, ready for use; exactly the layers that the adapter's configuration names."""
    body = adapter.read_config(folder, plain=True)
    path = folder / adapter.WEIGHTS
    found = files.load(path, "adapter.damaged")
    try:
        rank, scale, wanted = int(body["r"]), float(body["lora_alpha"]) / int(body["r"]), body["target_modules"]
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise InputError(
            f"the adapter's configuration cannot be read ({error or type(error).__name__})",
            code="adapter.damaged",
            where=str(folder / adapter.CONFIG),
            hint=adapter.COPY,
        ) from None
    chosen = adapter.chosen(layers, wanted)
    places = {}
    for name in chosen:
        outside, inside = layers[name].base.weight.shape
        places |= {adapter.key(name, "A"): (rank, inside), adapter.key(name, "B"): (outside, rank)}
    adapter.refuse_mismatch(places, models.shapes(found), str(path))

    def pair(name: str) -> Pair:
        dtype = layers[name].base.weight.dtype
        a, b = (found[adapter.key(name, matrix)].astype(mx.float32) for matrix in "AB")
        return a.T.astype(dtype), (b.T * scale).astype(dtype)

    return {name: pair(name) for name in chosen}
