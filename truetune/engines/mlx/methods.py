"""Methods: what of a model is trained, and how that goes to disk. The parameters themselves are the engine's, since
nothing changes in place here: a method puts values into the model, and makes files of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from truetune.data import objectives
from truetune.engines import adapter, family
from truetune.engines.base import EngineSpec, Part, write
from truetune.engines.mlx import dora, files, inits, lora, model, state
from truetune.engines.mlx.adamw import Arrays
from truetune.engines.mlx.family import Layout
from truetune.engines.mlx.whole import EMBEDDING, Whole, parted
from truetune.errors import UsageError

LAYERS: dict[str, type[lora.LoRALinear]] = {"dora": dora.DoRALinear}
"""Those of a method that are not LoRA's own."""


def adapt(model: nn.Module, layout: Layout, spec: EngineSpec) -> Full | Lora:
    """Make the method's parameters trainable, everything else frozen."""
    return Full(model, layout, spec) if spec.method.type == "full" else Lora(model, layout, spec)


class Full:
    """All weights are trained."""

    file = state.FULL
    undoes = False
    """Whether `off` is the model before training at any time."""
    modules: Sequence[str] = ()
    """What is trained whole beside the adapted layers."""

    def __init__(self, model: nn.Module, layout: Layout, spec: EngineSpec) -> None:
        self.model, self.layout, self.spec = model, layout, spec
        self.layers: dict[str, lora.LoRALinear] = {}
        self.parameters: Arrays = dict(tree_flatten(model.parameters()))
        self.looks_up = True

    def put(self, values: Arrays) -> None:
        """Into the model."""
        self.model.update(tree_unflatten(list(values.items())))

    def wide(self, name: str) -> bool:
        """Whether a parameter is float32 only while it is kept, and computes in the model's number type."""
        return True

    def off(self) -> AbstractContextManager[None]:
        """The model without what was trained."""
        return nullcontext()

    def parts(self, values: Arrays) -> tuple[Part, ...]:
        """What writes `file`, and beside it what makes a checkpoint an adapter that others load."""
        return (state.part(self.file, values),)

    def taken(self, found: Arrays) -> Arrays:
        """Undo `parts`: parameters from the tensors of `file`. Raises KeyError, ValueError where they are others."""
        return fitting(found, self.parameters)

    def export(self, folder: Path, values: Arrays) -> None:
        """The result: an adapter in PEFT's layout, or the whole model."""
        writes = not objectives.of(self.spec.objective.type).scores
        state.save_model(folder, values, self.spec.model, writes=writes)


class Lora:
    """LoRA and its family: a small addition to some linear layers is trained."""

    file = adapter.WEIGHTS
    undoes = True

    def __init__(self, base: nn.Module, layout: Layout, spec: EngineSpec) -> None:
        self.model, self.spec = base, spec
        found = self.stored(spec.adapter) if spec.adapter else {}
        words = not objectives.of(spec.objective.type).scores  # else there is no head of tokens
        self.layout = model.part(base, layout) if words and layout.tied and parted(found) else layout
        self.layers = attach(base, spec)
        self.whole = Whole(base, spec.method.modules_to_save, tied=words and self.layout.tied)
        self.looks_up = EMBEDDING in self.whole.before
        if spec.adapter:
            where = str(spec.adapter / adapter.WEIGHTS)
            adapter.refuse_mismatch(model.shapes(self.saved(self.current)), model.shapes(found), where)
            self.put(self.taken(found))
        elif spec.method.init != "default":
            self.start()
        self.parameters = self.current

    @property
    def current(self) -> Arrays:
        """What stands in the model, by PEFT's names."""
        return lora.parameters(self.layers) | self.whole.trained

    @property
    def modules(self) -> list[str]:
        """What is trained whole, both where a head is tied to its embedding."""
        return family.modules(self.saved(self.current))

    def stored(self, folder: Path) -> Arrays:
        """The tensors of an adapter of these settings."""
        adapter.read_config(folder)  # says it where this is no adapter
        found = files.load(folder / adapter.WEIGHTS, "adapter.damaged")
        body, layout = family.read(folder, found)
        family.refuse_others(body, layout, self.spec)
        return found

    def start(self) -> None:
        """Begin as a part of the weights. Raises UsageError `method.init_rank`."""
        method = self.spec.method
        for name, layer in self.layers.items():
            most = min(layer.base.weight.shape)
            if method.r > most:
                raise UsageError(
                    f"method.r is {method.r}, and {name} has no more than {most} parts",
                    code="method.init_rank",
                    where="method.init",
                    hint=f"Lower method.r, or write `init: default` instead of {method.init}.",
                )
            layer.take(inits.TABLE[method.init](layer.base.weight, method.r, method.scale))

    def put(self, values: Arrays) -> None:
        lora.put(self.layers, values)
        self.whole.put(values)

    def wide(self, name: str) -> bool:
        return family.whole(name)

    @contextmanager
    def off(self) -> Iterator[None]:
        with lora.off(self.layers), self.whole.off():
            yield

    def saved(self, values: Arrays) -> Arrays:
        """What the file holds: for the untouched base, so that an adapter which took a part of it gives that back."""
        found = dict(values) | self.whole.copies(values)
        for name, layer in self.layers.items():
            names = [adapter.key(name, matrix) for matrix in "AB"]
            found |= zip(names, layer.change(*(values[one] for one in names)), strict=True)
        return found

    def taken(self, found: Arrays) -> Arrays:
        """Undo `saved`; the layers know again what part of the weights they began as."""
        found = fitting(found, self.saved(self.current))
        for name, layer in self.layers.items():
            if layer.taken is not None:
                A, B = (adapter.key(name, matrix) for matrix in "AB")
                found[A], found[B] = layer.parted(found[A], found[B])
        return {name: found[name] for name in self.current}

    def parts(self, values: Arrays) -> tuple[Part, ...]:
        return state.adapter_parts(self.saved(values), self.config())

    def export(self, folder: Path, values: Arrays) -> None:
        write(self.parts(values), folder)

    def config(self) -> dict[str, Any]:
        """PEFT's configuration of what is trained."""
        method, spec = self.spec.method, self.spec
        every = [*model.linears(self.model), *([] if self.layout.tied else ["lm_head"])]
        names, base = adapter.shortest(every, list(self.layers)), spec.base or str(spec.model)
        body = adapter.config(method, names, base=base, revision=spec.revision, transposed=False)
        more = family.settings(method, self.modules, {})
        if objectives.of(spec.objective.type).scores:
            # PEFT wraps the head by its own name, and must not be told its parts.
            more |= {"task_type": "SEQ_CLS", "modules_to_save": list(method.modules_to_save)}
        taken = any(layer.taken is not None for layer in self.layers.values())
        return body | more | (family.doubled(method) if taken else {})


def attach(base: nn.Module, spec: EngineSpec) -> dict[str, lora.LoRALinear]:
    """Freeze the model and put a layer of the method at every target; the layers by name."""
    method, every = spec.method, model.linears(base)
    kind = LAYERS.get(method.type, lora.LoRALinear)
    chosen = adapter.select(family.outside(every, method), method.target_modules)
    layers = {name: kind(every[name], method) for name in chosen}
    base.update_modules(tree_unflatten(list(layers.items())))
    base.freeze()
    for name, layer in layers.items():
        layer.reset(name, spec.seed)
        layer.unfreeze(keys=list(layer.PARTS), recurse=False)
    return layers


def fitting(found: Arrays, places: Arrays) -> Arrays:
    """The tensors of these places, in float32 and in their order. Raises KeyError, ValueError where they do not fit."""
    for name, place in places.items():
        if found[name].shape != place.shape:
            raise ValueError(f"{name} is of another shape")
    return {name: found[name].astype(mx.float32) for name in places}
