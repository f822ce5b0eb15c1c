"""Modules that are trained whole beside an adapter, such as the embedding, norms or a head: PEFT's `modules_to_save`.

They are trained in float32. A copy of how they were is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from truetune.engines import adapter, family
from truetune.engines.mlx.adamw import Arrays

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


class Whole:
    """The parameters of some modules, under PEFT's names. With `tied` the head is the embedding: one parameter."""

    def __init__(self, model: nn.Module, wanted: tuple[str, ...], *, tied: bool) -> None:
        self.model = model
        every: Arrays = dict(tree_flatten(model.parameters()))
        same = {HEAD: EMBEDDING} if tied else {}
        picked = {same.get(name, name) for name in family.within_modules([*every, *same], wanted)}
        self.before = {name: value for name, value in every.items() if name in picked}
        self.names = {name: other for name, other in same.items() if other in picked}
        """What else a parameter is called: the head, where it is tied to the embedding."""
        owners = dict(model.named_modules())
        for name in self.before:
            owner, _, own = name.rpartition(".")
            owners[owner].unfreeze(keys=own, recurse=False)
        self.set({name: value.astype(mx.float32) for name, value in self.before.items()})

    @property
    def trained(self) -> Arrays:
        now = dict(tree_flatten(self.model.parameters()))
        return {adapter.PREFIX + name: now[name] for name in self.before}

    def copies(self, values: Mapping[str, mx.array]) -> Arrays:
        """What is tied, under its other name: PEFT would part the two otherwise."""
        return {adapter.PREFIX + name: values[adapter.PREFIX + other] for name, other in self.names.items()}

    def put(self, values: Mapping[str, mx.array]) -> None:
        """Set the parameters by PEFT's names."""
        self.set({name: values[adapter.PREFIX + name] for name in self.before})

    def set(self, values: Mapping[str, mx.array]) -> None:
        if values:
            self.model.update(tree_unflatten(list(values.items())))

    @contextmanager
    def off(self) -> Iterator[None]:
        now = self.trained
        self.set(self.before)
        try:
            yield
        finally:
            self.put(now)


def parted(found: Mapping[str, mx.array]) -> bool:
    """Whether an adapter holds an embedding and a head that differ, or one of them: not for a model that ties them."""
    held = [found[adapter.PREFIX + name] for name in (EMBEDDING, HEAD) if adapter.PREFIX + name in found]
    return bool(held) and not (len(held) == 2 and mx.array_equal(*held).item())
