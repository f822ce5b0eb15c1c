"""The output head and the loss in one: cross-entropy at supervised positions, in chunks, with the gradient made in
the forward pass, so that logits for the whole step never exist at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from truetune.engines.mlx import pooled
from truetune.engines.mlx.family import Layout

CHUNK = 4 * 1024 * 1024
"""Most logits (positions × vocabulary) alive at once."""

Loss = Callable[[mx.array, mx.array, mx.array, mx.array], mx.array]


@dataclass(frozen=True)
class Head:
    """The projection from hidden states to logits: z = W h, then softcap · tanh(z / softcap)."""

    layer: nn.Module
    """`nn.Linear`, or the `nn.Embedding` that it is tied to."""
    softcap: float | None = None

    @property
    def weight(self) -> mx.array:
        """[V, H]"""
        return self.layer.weight

    def logits(self, hidden: mx.array) -> mx.array:
        """hidden [N, H] -> float32 logits [N, V]."""
        return logits(hidden, self.weight, self.softcap)


def of(model: nn.Module, layout: Layout) -> Head:
    if pooled.NAME in model:  # it gives scores
        return Head(model[pooled.NAME])
    return Head(model.model.embed_tokens if layout.tied else model.lm_head, layout.softcap)


def logits(hidden: mx.array, weight: mx.array, softcap: float | None) -> mx.array:
    z = (hidden @ weight.T.astype(hidden.dtype)).astype(mx.float32)
    return z if softcap is None else mx.tanh(z / softcap) * softcap


def loss(softcap: float | None) -> Loss:
    """A function (hidden [N, H], weight [V, H], targets int [N], weights float32 [N]) -> Σ weight · (lse(z) − z[t])."""

    @mx.custom_function
    def whole(hidden: mx.array, weight: mx.array, targets: mx.array, weights: mx.array) -> list[mx.array]:
        rows = max(1, CHUNK // weight.shape[0])
        total, to_hidden, to_weight = mx.zeros(()), [], mx.zeros(weight.shape, mx.float32)
        for start in range(0, hidden.shape[0], rows):
            part = slice(start, start + rows)
            # One chunk after the other: the next one waits for what this one has given.
            piece = mx.depends([hidden[part]], to_hidden[-1:])[0]
            one, slope_hidden, slope_weight = chunk(piece, weight, targets[part], weights[part], softcap)
            total, to_weight = total + one, to_weight + slope_weight
            to_hidden.append(slope_hidden)
        return [total, mx.concatenate(to_hidden), to_weight]

    @whole.vjp
    def _(primals: list[mx.array], cotangents: list[mx.array], outputs: list[mx.array]) -> tuple[mx.array, ...]:
        hidden, weight, targets, weights = primals
        upstream = cotangents[0]
        return (
            (outputs[1] * upstream).astype(hidden.dtype),
            (outputs[2] * upstream).astype(weight.dtype),
            mx.zeros_like(targets),
            mx.zeros_like(weights),
        )

    return lambda *arguments: whole(*arguments)[0]


def chunk(
    hidden: mx.array, weight: mx.array, targets: mx.array, weights: mx.array, softcap: float | None
) -> tuple[mx.array, mx.array, mx.array]:
    """The weighted loss of N positions, and its gradients towards hidden [N, H] and weight [V, H].

    With p = softmax(z), the gradient towards z is weight · (p − onehot(target)); the onehot part is taken from the
    few rows of the head that are targets, so that nothing but p itself is as large as the logits.
    """
    z = logits(hidden, weight, softcap)
    p = mx.softmax(z, axis=-1)
    at = targets[:, None]
    # log Σ exp z, by the likeliest token: p = exp(z − lse) there, and never too small.
    lse = z.max(-1) - mx.log(p.max(-1))
    total = ((lse - mx.take_along_axis(z, at, -1)[:, 0]) * weights).sum()
    wide, scale = weight.astype(mx.float32), weights[:, None]
    own = scale
    if softcap is not None:
        bend = 1 - mx.square(z / softcap)
        p, own = p * bend, scale * mx.take_along_axis(bend, at, -1)
    to_hidden = scale * (p @ wide) - own * wide[targets]
    states = hidden.astype(mx.float32)
    to_weight = (p.T @ (states * scale)).at[targets].add(-(states * own))
    return total, to_hidden, to_weight


def logps(hidden: mx.array, weight: mx.array, targets: mx.array, softcap: float | None) -> mx.array:
    """log p of each target, float32 [N]. Logits are made anew, chunk by chunk, for the backward pass."""
    rows = max(1, CHUNK // weight.shape[0])

    def part(start: int) -> mx.array:
        at = targets[start : start + rows, None]

        def one(hidden: mx.array, weight: mx.array) -> mx.array:
            z = logits(hidden, weight, softcap)
            return mx.take_along_axis(z, at, -1)[:, 0] - mx.logsumexp(z, axis=-1)

        found: mx.array = mx.checkpoint(one)(hidden[start : start + rows], weight)
        return found

    parts = [part(start) for start in range(0, hidden.shape[0], rows)]
    return mx.concatenate(parts) if parts else mx.zeros(0)
