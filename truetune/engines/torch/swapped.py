"""What adapters replace in the model while decoding: whole modules, and rows of the embedding and the head.

That cannot stand beside what others want, as A and B can: rows of such an adapter are computed by themselves, and the
model has its parameters for as long. A vocabulary that has grown for one of them stays so for all, with rows that
lean to no token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from truetune.engines import adapter
from truetune.engines.family import ROWS, Layout
from truetune.engines.torch import tokens, whole


@dataclass(frozen=True)
class Part:
    """Values that stand for a parameter, or for those rows of it."""

    parameter: nn.Parameter
    values: torch.Tensor
    rows: torch.Tensor | None = None

    def put(self) -> Part:
        """Set the values; returns what undoes that."""
        if self.rows is None:
            before, self.parameter.data = self.parameter.data, self.values
            return Part(self.parameter, before)
        kept = self.parameter.data[self.rows].clone()
        self.parameter.data[self.rows] = self.values
        return Part(self.parameter, kept, self.rows)


class Swapped:
    """The parts of each adapter that has any, and whose stand in the model now."""

    def __init__(self) -> None:
        self.parts: dict[str, list[Part]] = {}
        self.undo: list[Part] = []
        self.name: str | None = None

    def add(self, name: str, parts: list[Part]) -> None:
        if parts:
            self.parts[name] = parts

    def forget(self, name: str) -> None:
        if name == self.name:
            self.set(None)
        self.parts.pop(name, None)

    def set(self, name: str | None) -> None:
        """Bring in the parts of this adapter, where it has any."""
        name = name if name in self.parts else None
        if name == self.name:
            return
        for part in reversed(self.undo):
            part.put()
        self.undo, self.name = [], None
        for part in self.parts.get(name or "", []):
            self.undo.append(part.put())
        self.name = name


def places(model: nn.Module, found: Layout, tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """Shapes that an adapter's parts must have, by PEFT's names. The vocabulary may be one that has grown."""
    every = dict(model.named_parameters(remove_duplicate=False))
    shapes = {name: tuple(every[name].shape) for name in found.whole if name in every}
    for name in shapes:
        grown = tensors[adapter.PREFIX + name].shape
        if every[name] in vocabularies(model) and len(grown) == len(shapes[name]) and grown[1:] == shapes[name][1:]:
            shapes[name] = tuple(grown)
    rows = {name + ROWS: (len(ids), model.get_input_embeddings().weight.shape[1]) for name, ids in found.rows.items()}
    return {adapter.PREFIX + name: shape for name, shape in (shapes | rows).items()}


def vocabularies(model: nn.Module) -> set[nn.Parameter]:
    """The parameters with a row for each token."""
    return set(tokens.lookups(model))


def parts(model: nn.Module, found: Layout, tensors: Mapping[str, torch.Tensor]) -> list[Part]:
    """What an adapter replaces; the model is made ready for it: its vocabulary as large, and the head its own where the
    adapter may have another than the embedding. Everything must have been found to fit."""
    tokens.grow(model, size(model, found, tensors))
    if whole.tied(model) and model.get_input_embeddings().weight in chosen(model, found.whole):
        whole.untie(model)
    every = dict(model.named_parameters(remove_duplicate=False))
    made = [Part(every[name], tensors[adapter.PREFIX + name].to(every[name])) for name in found.whole]
    for name, ids in found.rows.items():
        for weight in together(model, model.get_submodule(name).weight):
            rows = tensors[f"{adapter.PREFIX}{name}{ROWS}"].to(weight)
            made.append(Part(weight, rows, torch.tensor(ids, device=weight.device)))
    return made


def together(model: nn.Module, weight: nn.Parameter) -> list[nn.Parameter]:
    """A parameter, and the one that is meant to be the same: the head's, where it was untied for an adapter."""
    tables, meant = tokens.lookups(model), model.config.get_text_config().tie_word_embeddings
    return tables[:2] if meant and weight is tables[0] else [weight]


def chosen(model: nn.Module, names: tuple[str, ...]) -> set[nn.Parameter]:
    every = dict(model.named_parameters(remove_duplicate=False))
    return {every[name] for name in names}


def size(model: nn.Module, found: Layout, tensors: Mapping[str, torch.Tensor]) -> int:
    """Rows of the vocabulary that the adapter knows."""
    every, tables = dict(model.named_parameters(remove_duplicate=False)), vocabularies(model)
    grown = [len(tensors[adapter.PREFIX + name]) for name in found.whole if every[name] in tables]
    return max([0, *grown, *(max(ids) + 1 for ids in found.rows.values())])
