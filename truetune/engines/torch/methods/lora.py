"""LoRA: a small addition to some linear layers is trained; its files are PEFT's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from truetune.engines import adapter
from truetune.engines.base import EngineSpec
from truetune.engines.torch import files, lora
from truetune.models import packed


class Lora:
    file = adapter.WEIGHTS
    virtual = 0

    def __init__(self, model: nn.Module, spec: EngineSpec) -> None:
        self.model, self.spec = model, spec
        self.undoes = spec.adapter is None  # the model before training has the adapter that it starts from
        self.layers = lora.attach(model, spec.method, spec.seed)
        self.parameters = parameters(model)
        if spec.adapter:
            self.begin(spec.adapter)

    def begin(self, folder: Path) -> None:
        """Start from an adapter on disk. Refused unless it maps one to one onto the layers."""
        adapter.refuse_other_shape(adapter.read_config(folder), self.spec.method)
        tensors = files.load(folder / adapter.WEIGHTS, "adapter.damaged")
        self.put(tensors, str(folder / adapter.WEIGHTS))

    def put(self, tensors: dict[str, torch.Tensor], where: str) -> None:
        """Copy PEFT-named tensors into the layers; every tensor must find its place and every place its tensor."""
        adapter.refuse_mismatch(
            {name: place.shape for name, place in self.parameters.items()},
            {name: tensor.shape for name, tensor in tensors.items()},
            where,
        )
        for name, parameter in self.parameters.items():
            parameter.data.copy_(tensors[name])

    @contextmanager
    def off(self) -> Iterator[None]:
        layers = [layer for _, layer in lora.layers(self.model)]
        for layer in layers:
            layer.enabled = False
        try:
            yield
        finally:
            for layer in layers:
                layer.enabled = True

    def save(self, folder: Path) -> None:
        self.export(folder)

    def export(self, folder: Path) -> None:
        beside = {packed.NOTE: str(self.spec.method.bits)} if self.spec.method.bits else {}
        files.write(folder / adapter.WEIGHTS, self.parameters, **beside)
        adapter.write_config(folder, self.config())

    def config(self) -> dict[str, Any]:
        """PEFT's configuration of what is trained."""
        transposed = any(layer.transposed for _, layer in lora.layers(self.model))
        base = self.spec.base or str(self.spec.model)
        return adapter.config(
            self.spec.method, self.names(), base=base, revision=self.spec.revision, transposed=transposed
        )

    def names(self) -> list[str]:
        """The shortest way to name the layers for PEFT: suffixes where they select exactly these."""
        kinds = lora.LoRALinear | nn.Linear | lora.Conv1D
        every = [name for name, module in self.model.named_modules() if isinstance(module, kinds)]
        return adapter.shortest([name for name in every if not name.endswith(".base")], self.layers)


def parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """PEFT's tensor names -> parameters."""
    return {
        adapter.key(name, matrix): getattr(layer, f"lora_{matrix}")
        for name, layer in lora.layers(model)
        for matrix in "AB"
    }
