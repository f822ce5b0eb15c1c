"""A running mean of what is trained (Polyak & Juditsky 1992), which is measured and exported in its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from truetune.engines.base import Part
from truetune.engines.torch import files, methods

FILE = "mean.safetensors"
"""In a checkpoint: the weights themselves and their mean, to the last bit. What the method saves is the mean."""


class Mean:
    """m ← k m + (1 − k) w after every step, with k = min(decay, (1 + steps) / (10 + steps)): a short run is not held
    back at its start. float32, of each parameter by name; with a decay of None there is none, and nothing happens."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float | None) -> None:
        self.decay, self.steps, self.held = decay, 0, decay is None
        self.parameters = parameters if decay is not None else {}
        self.values = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take a step into account."""
        if self.decay is None:
            return
        self.steps += 1
        keep = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, parameter in self.parameters.items():
            self.values[name].lerp_(parameter, 1 - keep)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """The model has the mean for its weights, unless `hidden` holds."""
        if self.held:
            yield
            return
        with self.hidden():
            self.swap()
            try:
                yield
            finally:
                self.swap()

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """What is measured inside is measured with the weights as they are: a step asks what it stands on."""
        before, self.held = self.held, True
        try:
            yield
        finally:
            self.held = before

    def swap(self) -> None:
        for name, parameter in self.parameters.items():
            parameter.data, self.values[name] = self.values[name], parameter.data

    def save(self, folder: Path) -> None:
        if self.decay is not None:
            files.write(folder / FILE, self.tensors())

    def snapshot(self) -> tuple[Part, ...]:
        """What `save` writes, copied."""
        return (files.part(FILE, files.held(self.tensors())),) if self.decay is not None else ()

    def tensors(self) -> dict[str, torch.Tensor]:
        """The weights themselves, their mean, and the number of steps."""
        own = {f"own.{name}": parameter for name, parameter in self.parameters.items()}
        mean = {f"mean.{name}": value for name, value in self.values.items()}
        return own | mean | {"steps": torch.tensor(self.steps)}

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Undo `save`. Raises KeyError, ValueError for tensors of another shape."""
        methods.put(self.parameters, {name: tensors[f"own.{name}"] for name in self.parameters})
        for name, value in self.values.items():
            methods.put({name: nn.Parameter(value)}, {name: tensors[f"mean.{name}"]})
        self.steps = int(tensors["steps"])
