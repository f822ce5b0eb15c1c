"""Optimizers by name. Adafactor, Lion and SGD are MLX's own rules for one array; decay, rate and count are ours: MLX
decays vectors too, and SGD's through its momentum. Its Muon is another one than torch's (in float32, and not scaled to
the size of AdamW's steps), so it is not here."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import mlx.core as mx
import mlx.optimizers as library

from truetune.engines.base import Optimizer
from truetune.engines.mlx.adamw import AdamW, Arrays

RULES: dict[str, Callable[[], library.Optimizer]] = {
    "adafactor": lambda: library.Adafactor(0.0, scale_parameter=False, relative_step=False),
    "lion": lambda: library.Lion(0.0),
    "sgd": lambda: library.SGD(0.0, momentum=0.9),
}


def of(settings: Optimizer, parameters: Arrays, rates: Mapping[str, float]) -> AdamW | Rule:
    """`rates` are the shares of the learning rate that are not 1."""
    if settings.type == "adamw":
        return AdamW(settings, parameters, rates)
    return Rule(settings, parameters, rates)


class Rule:
    """What MLX keeps of each parameter, by its name. Nothing changes in place: a step returns new parameters."""

    def __init__(self, settings: Optimizer, parameters: Arrays, rates: Mapping[str, float]) -> None:
        self.settings, self.rule, self.rates, self.steps = settings, RULES[settings.type](), rates, 0
        self.kept: dict[str, Arrays] = {name: {} for name in parameters}
        for name, value in parameters.items():
            self.rule.init_single(value, self.kept[name])

    @property
    def names(self) -> list[str]:
        return list(self.kept)

    def step(self, parameters: Arrays, gradients: Arrays, lr: float) -> Arrays:
        """Parameters after a step at learning rate `lr`; gradients are clipped already."""
        self.steps += 1
        self.rule.state["step"] = mx.array(self.steps, mx.uint64)
        return {
            name: self._one(name, value, gradients[name], lr * self.rates.get(name, 1.0))
            for name, value in parameters.items()
        }

    def _one(self, name: str, value: mx.array, gradient: mx.array, lr: float) -> mx.array:
        self.rule.learning_rate = lr
        if value.ndim >= 2:
            value = value * (1 - lr * self.settings.weight_decay)
        return self.rule.apply_single(gradient, value, self.kept[name])

    def state(self) -> Arrays:
        """`<kind>.<name>`, the kinds as MLX calls them."""
        return {f"{kind}.{name}": value for name, kept in self.kept.items() for kind, value in kept.items()}

    def put(self, state: Arrays, steps: int) -> None:
        """Undo `state`."""
        self.steps = steps
        self.kept = {name: {kind: state[f"{kind}.{name}"] for kind in kept} for name, kept in self.kept.items()}
