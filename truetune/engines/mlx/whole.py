"""Modules that are trained whole beside an adapter, such as a head for classes: PEFT's `modules_to_save`.

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


class Whole:
    """The parameters of some modules, under PEFT's names."""

    def __init__(self, model: nn.Module, wanted: tuple[str, ...]) -> None:
        self.model = model
        every: Arrays = dict(tree_flatten(model.parameters()))
        self.before = {name: every[name] for name in family.within_modules(every, wanted)}
        owners = dict(model.named_modules())
        for name in self.before:
            owner, _, own = name.rpartition(".")
            owners[owner].unfreeze(keys=own, recurse=False)
        self.set({name: value.astype(mx.float32) for name, value in self.before.items()})

    @property
    def trained(self) -> Arrays:
        now = dict(tree_flatten(self.model.parameters()))
        return {adapter.PREFIX + name: now[name] for name in self.before}

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
