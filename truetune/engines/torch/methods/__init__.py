"""Methods: what of a model is trained. One file each, found by name, imported when wanted: PEFT's takes seconds."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from truetune import plugins
from truetune.engines import prompts
from truetune.engines.base import EngineSpec, Part


class Adapted(Protocol):
    """A model under a method: what is trained of it, and how that goes to disk."""

    model: nn.Module
    layers: list[str]
    """Names of the layers that are changed; none where all of them are."""
    parameters: dict[str, nn.Parameter]
    """What is trained, by the names of `file`."""
    file: str
    """In a checkpoint: the trained parameters."""

    def __init__(self, model: nn.Module, spec: EngineSpec) -> None:
        """Make the method's parameters trainable, from `spec.adapter` where there is one."""
        ...

    undoes: bool
    """Whether `off` is the model before training at any time, and not only before the first step."""

    virtual: int
    """Tokens that stand before every text; only prompt methods have any, and with them a `front` for decoding."""

    def off(self) -> AbstractContextManager[None]:
        """The model without what was trained."""
        ...

    def save(self, folder: Path) -> None:
        """`file`, and beside it what makes a checkpoint an adapter that others load."""
        ...

    def snapshot(self) -> tuple[Part, ...]:
        """What `save` writes, copied. A method that is brought in may lack this."""
        ...

    def put(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Undo `save`: the tensors of `file` into their places. Raises KeyError, ValueError where they are others."""
        ...

    def export(self, folder: Path) -> None:
        """The result: an adapter in PEFT's layout, or the whole model."""
        ...


TABLE = {"lora": "lora:Lora", "qlora": "lora:Lora", "dora": "lora:Lora", "rslora": "lora:Lora", "full": "full:Full"}
TABLE |= dict.fromkeys(prompts.PROMPTS, "prompt:Prompt") | {"ia3": "ia3:Ia3"}
"""Name -> module and class."""


def adapt(model: nn.Module, spec: EngineSpec) -> Adapted:
    """The model under the method of `spec`, everything else frozen."""
    if spec.method.type not in TABLE:
        return brought(spec.method.type)(model, spec)
    module, _, name = TABLE[spec.method.type].partition(":")
    kind: type[Adapted] = getattr(import_module(f"{__name__}.{module}"), name)
    return kind(model, spec)


def brought(name: str) -> type[Adapted]:
    """The class of an entry point of the group `truetune.methods`. Raises InputError `plugin.missing`,
    `plugin.unusable`."""
    kind: type[Adapted] = plugins.load(plugins.METHODS, name)
    wanted = ("file", "undoes", "virtual", "off", "save", "put", "export")
    if missing := [part for part in wanted if not hasattr(kind, part)]:
        raise plugins.unusable(plugins.METHODS, name, f"it must be a class with {', '.join(missing)}")
    return kind


def put(parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, torch.Tensor]) -> None:
    """Copy tensors into the parameters of their names. A copy would stretch a smaller tensor over a larger one: raises
    ValueError for another shape, KeyError where one is missing."""
    for name, parameter in parameters.items():
        if tensors[name].shape != parameter.shape:
            raise ValueError(f"{name} is of another shape")
    for name, parameter in parameters.items():
        parameter.data.copy_(tensors[name])
