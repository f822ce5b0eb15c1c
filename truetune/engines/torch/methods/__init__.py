"""Methods: what of a model is trained. One file each, found by name, imported when wanted: PEFT's takes seconds."""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import Protocol

from torch import nn

from truetune.engines.base import EngineSpec


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

    def off(self) -> AbstractContextManager[None]:
        """The model without what was trained."""
        ...

    def save(self, folder: Path) -> None:
        """`file`, and beside it what makes a checkpoint an adapter that others load."""
        ...

    def export(self, folder: Path) -> None:
        """The result: an adapter in PEFT's layout, or the whole model."""
        ...


TABLE = {"lora": "lora:Lora", "qlora": "lora:Lora", "full": "full:Full"}
"""Name -> module and class."""


def adapt(model: nn.Module, spec: EngineSpec) -> Adapted:
    """The model under the method of `spec`, everything else frozen."""
    module, _, name = TABLE[spec.method.type].partition(":")
    kind: type[Adapted] = getattr(import_module(f"{__name__}.{module}"), name)
    return kind(model, spec)
