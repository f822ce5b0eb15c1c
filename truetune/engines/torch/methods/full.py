"""All weights are trained, or all above the lowest layers."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import nn

from truetune.engines.base import EngineSpec, Part
from truetune.engines.torch import files, methods
from truetune.errors import UsageError


class Full:
    file = "model.safetensors"
    undoes = False
    virtual = 0

    def __init__(self, model: nn.Module, spec: EngineSpec) -> None:
        self.model = model.requires_grad_(True)
        if spec.method.frozen_layers:
            freeze(model, spec.method.frozen_layers)
        self.layers: list[str] = []
        named = model.named_parameters()  # tied weights once
        self.parameters = {name: parameter for name, parameter in named if parameter.requires_grad}

    def off(self) -> AbstractContextManager[None]:
        return nullcontext()

    def save(self, folder: Path) -> None:
        files.write(folder / self.file, dict(self.model.named_parameters()))

    def snapshot(self) -> tuple[Part, ...]:
        return (files.part(self.file, files.held(dict(self.model.named_parameters()))),)

    def put(self, tensors: Mapping[str, torch.Tensor]) -> None:
        methods.put(self.parameters, tensors)

    def export(self, folder: Path) -> None:
        self.model.save_pretrained(folder)


def freeze(model: nn.Module, count: int) -> None:
    """The lowest layers and what is looked up stay as they are; a head that is tied to the embedding with it. Raises
    UsageError `method.too_few_layers`."""
    total = model.config.num_hidden_layers
    stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == total]
    if count > total or not stacks:
        raise UsageError(
            f"method.frozen_layers is {count}, and the model has {total if stacks else 'no'} layers to count",
            code="method.too_few_layers",
            where="method.frozen_layers",
            hint=f"Write a number up to {total}." if stacks else "Leave it out.",
        )
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    for module in [*tables, *stacks[0][:count]]:
        module.requires_grad_(False)
