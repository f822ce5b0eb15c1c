"""Modules that are trained whole beside an adapter, such as the embedding, the head or norms: PEFT's `modules_to_save`.

They are trained in float32, in place, so that what is tied stays tied. A copy of how they were is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from truetune.engines import adapter, family


class Whole:
    """The parameters of some modules."""

    def __init__(self, model: nn.Module, wanted: tuple[str, ...]) -> None:
        every = dict(model.named_parameters(remove_duplicate=False))
        shared: dict[int, list[str]] = {}
        for name, parameter in every.items():
            shared.setdefault(id(parameter), []).append(name)
        picked = {id(every[name]) for name in family.within_modules(every, wanted)}
        self.names = {names[0]: tuple(names) for at, names in shared.items() if at in picked}
        """Of a parameter, all its names in the model: the embedding's and the head's where they are tied."""
        self.parameters = {name: every[name] for name in self.names}
        self.before = {name: parameter.data for name, parameter in self.parameters.items()}
        for parameter in self.parameters.values():
            parameter.data = parameter.data.to(torch.float32, copy=True)
            parameter.requires_grad_(True)

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """By PEFT's names, each once."""
        return {adapter.PREFIX + name: parameter for name, parameter in self.parameters.items()}

    @property
    def saved(self) -> dict[str, torch.Tensor]:
        """By PEFT's names, under each where it is tied: PEFT would part them otherwise."""
        copies = {
            adapter.PREFIX + other: self.parameters[name].detach().clone()
            for name, names in self.names.items()
            for other in names[1:]
        }
        return self.trained | copies

    @contextmanager
    def off(self) -> Iterator[None]:
        now = {name: parameter.data for name, parameter in self.parameters.items()}
        self.set(self.before)
        try:
            yield
        finally:
            self.set(now)

    def set(self, values: Mapping[str, torch.Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.data = values[name]


def tied(model: nn.Module) -> bool:
    """Whether the head is the embedding."""
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def untie(model: nn.Module) -> None:
    """Give the head a parameter of its own, with the same numbers in the same memory."""
    head = model.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.detach(), requires_grad=False)
