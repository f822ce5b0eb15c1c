"""AdamW (Loshchilov & Hutter 2019) as torch computes it: decoupled decay first, both moments corrected for their start
at zero (MLX's own leaves that off unless asked), and decay on matrices only."""

from __future__ import annotations

from collections.abc import Mapping

import mlx.core as mx

from truetune.engines.base import Optimizer

Arrays = dict[str, mx.array]


class AdamW:
    """Moments by parameter name. Nothing changes in place: a step returns new parameters. `rates` are the shares of the
    learning rate that are not 1."""

    def __init__(self, settings: Optimizer, parameters: Arrays, rates: Mapping[str, float]) -> None:
        self.settings, self.rates = settings, rates
        self.steps = 0
        self.mean = {name: mx.zeros(value.shape) for name, value in parameters.items()}
        self.square = {name: mx.zeros(value.shape) for name, value in parameters.items()}

    @property
    def names(self) -> list[str]:
        return list(self.mean)

    def step(self, parameters: Arrays, gradients: Arrays, lr: float) -> Arrays:
        """Parameters after a step at learning rate `lr`; gradients are clipped already."""
        self.steps += 1
        return {
            name: self._one(name, value, gradients[name], lr * self.rates.get(name, 1.0))
            for name, value in parameters.items()
        }

    def _one(self, name: str, value: mx.array, gradient: mx.array, lr: float) -> mx.array:
        own = self.settings
        mean = own.beta1 * self.mean[name] + (1 - own.beta1) * gradient
        square = own.beta2 * self.square[name] + (1 - own.beta2) * mx.square(gradient)
        self.mean[name], self.square[name] = mean, square
        if value.ndim >= 2:
            value = value * (1 - lr * own.weight_decay)
        size = lr / (1 - own.beta1**self.steps)
        root = (1 - own.beta2**self.steps) ** 0.5
        return value - size * mean / (mx.sqrt(square) / root + own.epsilon)

    def state(self) -> Arrays:
        """`exp_avg.<name>`, `exp_avg_sq.<name>`."""
        return {f"exp_avg.{name}": value for name, value in self.mean.items()} | {
            f"exp_avg_sq.{name}": value for name, value in self.square.items()
        }

    def put(self, state: Arrays, steps: int) -> None:
        """Undo `state`."""
        self.steps = steps
        self.mean = {name: state[f"exp_avg.{name}"] for name in self.mean}
        self.square = {name: state[f"exp_avg_sq.{name}"] for name in self.square}


def clip(gradients: Arrays, limit: float | None) -> tuple[Arrays, mx.array]:
    """Gradients scaled down to a global norm of `limit`, and the norm before."""
    norm = mx.sqrt(sum(mx.square(value).sum() for value in gradients.values()))
    if limit is None:
        return gradients, norm
    factor = mx.minimum(limit / (norm + 1e-6), 1.0)
    return {name: value * factor for name, value in gradients.items()}, norm
