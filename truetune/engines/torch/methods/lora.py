"""LoRA and its family: a small addition to some linear layers is trained; its files are PEFT's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from truetune.data import objectives
from truetune.engines import adapter, family
from truetune.engines.base import EngineSpec, Part, write
from truetune.engines.torch import dora, files, inits, loftq, lora, tokens
from truetune.engines.torch.whole import Whole, untie
from truetune.errors import UsageError
from truetune.models import packed

LAYERS: dict[str, type[lora.LoRALinear]] = {"dora": dora.DoRALinear}
"""Those of a method that are not LoRA's own."""


class Lora:
    file = adapter.WEIGHTS
    undoes = True
    virtual = 0

    def __init__(self, model: nn.Module, spec: EngineSpec) -> None:
        self.model, self.spec = model, spec
        tensors, stored = self.stored(spec.adapter) if spec.adapter else ({}, None)
        tokens.grow(model, max(spec.new_tokens, default=-1) + 1)
        self.layers = lora.attach(model, spec.method, spec.seed, LAYERS.get(spec.method.type, lora.LoRALinear))
        if parted(model, tensors):
            untie(model)
        self.whole = Whole(model, spec.method.modules_to_save)
        wanted = stored.rows if stored else tokens.places(model, spec.new_tokens, family.modules(self.whole.saved))
        self.rows = tokens.put(model, wanted)
        self.parameters = parameters(model) | self.whole.trained | tokens.parameters(self.rows)
        if spec.adapter:
            self.begin(tensors, str(spec.adapter / adapter.WEIGHTS))
        elif spec.method.init != "default":
            self.start()

    def stored(self, folder: Path) -> tuple[dict[str, torch.Tensor], family.Layout]:
        """The tensors of an adapter of these settings, and what they are."""
        tensors = files.load(folder / adapter.WEIGHTS, "adapter.damaged")
        body, found = family.read(folder, tensors)
        family.refuse_others(body, found, self.spec)
        return tensors, found

    def start(self) -> None:
        """Begin as a part of the weights, or of what packing took from them. Raises UsageError `method.init_rank`."""
        self.refuse_rank()
        if self.spec.method.init == "loftq":
            loftq.begin(self.model, self.spec)
            return
        method = self.spec.method
        for _, layer in lora.layers(self.model):
            layer.take(inits.TABLE[method.init](layer.weight.detach(), method.r, method.scale))

    def refuse_rank(self) -> None:
        """A weight has no more parts than its smaller side. Raises UsageError `method.init_rank`."""
        method = self.spec.method
        for name, layer in lora.layers(self.model):
            if method.r > min(layer.weight.shape):
                raise UsageError(
                    f"method.r is {method.r}, and {name} has no more than {min(layer.weight.shape)} parts",
                    code="method.init_rank",
                    where="method.init",
                    hint=f"Lower method.r, or write `init: default` instead of {method.init}.",
                )

    def begin(self, tensors: Mapping[str, torch.Tensor], where: str) -> None:
        """Start from an adapter on disk. Refused unless it maps one to one onto what is trained."""
        adapter.refuse_mismatch(
            {name: place.shape for name, place in self.saved().items()},
            {name: tensor.shape for name, tensor in tensors.items()},
            where,
        )
        self.put(tensors)

    def put(self, tensors: Mapping[str, torch.Tensor]) -> None:
        for name, place in self.saved().items():
            if tensors[name].shape != place.shape:
                raise ValueError(f"{name} is of another shape")
        for name, parameter in self.parameters.items():
            parameter.data.copy_(tensors[name][own(name, parameter)])
        for name, layer in lora.layers(self.model):
            if layer.taken is not None:
                r = self.spec.method.r
                A, B = (tensors[adapter.key(name, matrix)].to(layer.lora_A.device) for matrix in "AB")
                layer.taken = A[r:].clone(), -B[:, r:]

    @contextmanager
    def off(self) -> Iterator[None]:
        layers = [module for module in self.model.modules() if isinstance(module, lora.LoRALinear | tokens.Rows)]
        for layer in layers:
            layer.enabled = False
        try:
            with self.whole.off():
                yield
        finally:
            for layer in layers:
                layer.enabled = True

    def save(self, folder: Path) -> None:
        self.export(folder)

    def snapshot(self) -> tuple[Part, ...]:
        return self.parts(files.held(self.saved()))

    def export(self, folder: Path) -> None:
        write(self.parts(self.saved()), folder)

    def parts(self, tensors: Mapping[str, torch.Tensor]) -> tuple[Part, ...]:
        """What writes the adapter with these tensors."""
        beside = {packed.NOTE: str(self.spec.method.bits)} if self.spec.method.bits else {}
        return files.part(adapter.WEIGHTS, tensors, **beside), adapter.config_part(self.config())

    def saved(self) -> dict[str, torch.Tensor]:
        """What the file holds: for the untouched base, so that an adapter which took a part of it gives that back."""
        found: dict[str, torch.Tensor] = {**self.parameters, **self.whole.saved}
        for name, layer in lora.layers(self.model):
            if layer.taken is not None:
                found |= zip((adapter.key(name, matrix) for matrix in "AB"), layer.change(), strict=True)
        return found

    def config(self) -> dict[str, Any]:
        """PEFT's configuration of what is trained."""
        method, layers = self.spec.method, [layer for _, layer in lora.layers(self.model)]
        body = adapter.config(
            method,
            self.names(),
            base=self.spec.base or str(self.spec.model),
            revision=self.spec.revision,
            transposed=any(layer.transposed for layer in layers),
        )
        taken = any(layer.taken is not None for layer in layers)
        ids = {name: tuple(rows.ids.tolist()) for name, rows in self.rows.items()}
        more = family.settings(method, family.modules(self.whole.saved), ids)
        if objectives.of(self.spec.objective.type).scores:
            # PEFT wraps the head by its own name, and must not be told its parts.
            more |= {"task_type": "SEQ_CLS", "modules_to_save": list(method.modules_to_save)}
        return body | more | (family.doubled(method) if taken else {})

    def names(self) -> list[str]:
        """The shortest way to name the layers for PEFT: suffixes where they select exactly these."""
        kinds = lora.LoRALinear | nn.Linear | lora.Conv1D
        every = [name for name, module in self.model.named_modules() if isinstance(module, kinds)]
        return adapter.shortest(dict.fromkeys(name.removesuffix(".base") for name in every), self.layers)


def own(name: str, parameter: nn.Parameter) -> tuple[slice, ...]:
    """Where a parameter stands in the tensor of its file, which may hold its start behind it."""
    return tuple(slice(size) for size in parameter.shape) if ".lora_" in name else (slice(None),)


def parted(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether an adapter holds an embedding and a head that differ, or one of them, where the model has them tied."""
    names = [
        name
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if parameter is model.get_input_embeddings().weight
    ]
    held = [tensors[adapter.PREFIX + name] for name in names if adapter.PREFIX + name in tensors]
    whole = len(held) == len(names) and all(torch.equal(one, held[0]) for one in held)
    return len(names) > 1 and bool(held) and not whole


def parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """PEFT's tensor names -> parameters of the layers."""
    return {
        f"{adapter.PREFIX}{name}.{part}": parameter
        for name, layer in lora.layers(model)
        for part, parameter in layer.tensors().items()
    }
