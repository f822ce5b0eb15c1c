"""All weights are trained."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import nn

from truetune.engines.base import EngineSpec
from truetune.engines.torch import files, methods


class Full:
    file = "model.safetensors"
    undoes = False
    virtual = 0

    def __init__(self, model: nn.Module, spec: EngineSpec) -> None:
        self.model = model.requires_grad_(True)
        self.layers: list[str] = []
        self.parameters = dict(model.named_parameters())  # tied weights once

    def off(self) -> AbstractContextManager[None]:
        return nullcontext()

    def save(self, folder: Path) -> None:
        files.write(folder / self.file, self.parameters)

    def put(self, tensors: Mapping[str, torch.Tensor]) -> None:
        methods.put(self.parameters, tensors)

    def export(self, folder: Path) -> None:
        self.model.save_pretrained(folder)
