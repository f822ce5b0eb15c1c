"""The output head and the loss in one: cross-entropy at supervised positions, in chunks, with the gradient made in
the forward pass, so that logits for the whole step never exist at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from truetune.engines.torch import products

CHUNK = 8 * 1024 * 1024 - 65536
"""Most logits (positions × vocabulary) alive at once: just below the 32 MiB from which on glibc gives memory back to
the system each time, and enough positions for a fast product with most vocabularies."""
LEAST = 64
"""Positions of a chunk, whatever the vocabulary: products of fewer are slow."""


@dataclass(frozen=True)
class Head:
    """The projection from hidden states to logits: z = W h (+ b), times `scale`, then softcap · tanh(z / softcap)."""

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden [N, H] -> float32 logits [N, V]."""
        return self.bent(F.linear(hidden, self.weight.to(hidden.dtype), self.bias).float())

    def chunks(self, hidden: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
        """The logits of `CHUNK` and less at once, with their places in hidden. They are the caller's to write into, and
        gone with the next ones: where MKL multiplies, they stand in one place, for it is slower into new memory."""
        rows = even(len(hidden), max(LEAST, CHUNK // self.weight.shape[0]))
        plain = hidden.dtype == torch.float32 and not torch.is_autocast_enabled(hidden.device.type)
        kept = None
        for start in range(0, len(hidden), rows):
            part = slice(start, min(start + rows, len(hidden)))
            x = hidden[part]
            if plain and products.wide(x, self.weight):
                z = products.forward(x, self.weight)
                yield part, self.bent(z if self.bias is None else z.add_(self.bias))
                z.untyped_storage().resize_(0)  # else two of them would be alive with the next
            elif plain:
                kept = hidden.new_empty(len(x), self.weight.shape[0]) if kept is None else kept
                yield part, self.bent(self.into(kept[: len(x)], x))
            else:
                yield part, self.logits(x)

    def into(self, place: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """W h + b, written into `place` [N, V]."""
        weight = self.weight.to(hidden.dtype).t()
        if self.bias is None:
            return torch.mm(hidden, weight, out=place)
        return torch.addmm(self.bias, hidden, weight, out=place)

    def bent(self, z: torch.Tensor) -> torch.Tensor:
        """Scale and softcap, in place."""
        if self.scale != 1.0:
            z.mul_(self.scale)
        return z if self.softcap is None else z.div_(self.softcap).tanh_().mul_(self.softcap)


def of(model: nn.Module) -> Head:
    """The head of a causal model whose logits are exactly `Head.logits` (held by the packing contract test)."""
    layer, config = model.get_output_embeddings(), model.config
    softcap = getattr(config, "final_logit_softcapping", None)
    return Head(layer.weight, layer.bias, softcap=softcap)


def even(count: int, most: int) -> int:
    """Rows of one chunk where `count` are cut into as few as can be, at most `most` in each: alike, so that none is
    left with a slow product of a few, and as many as make a fast one."""
    fast = max(1, most - most % products.ROUND if most >= products.ROWS else most)
    return products.rounded(-(-count // max(1, -(-count // fast)))) or 1


def filled(*rows: torch.Tensor) -> list[torch.Tensor]:
    """Tensors [N, …] with zeros behind them, where this processor multiplies rounded numbers of rows."""
    more = products.missing(len(rows[0]), rows[0].device)
    return [torch.cat((each, each.new_zeros(more, *each.shape[1:]))) if more else each for each in rows]


class Loss(torch.autograd.Function):
    """Σ weight · (logsumexp(z) − z[target]) over N positions.

    hidden [N, H], weight [V, H], targets int64 [N], weights float32 [N].
    """

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, weights, scale, softcap):
        head = Head(weight.detach(), None if bias is None else bias.detach(), scale, softcap)
        count, (hidden, targets, weights) = len(hidden), filled(hidden, targets, weights)
        sums = Sums(head, hidden, bias, ctx.needs_input_grad)
        wide = torch.float32 if hidden.device.type == "mps" else torch.float64
        total = torch.zeros((), dtype=wide, device=hidden.device)
        for part, z in head.chunks(hidden):
            losses = -sums.add(part, z, targets[part], weights[part])
            total = total + (losses * weights[part]).sum().to(total)
        ctx.save_for_backward(None if sums.hidden is None else sums.hidden[:count], sums.weight, sums.bias)
        return total

    @staticmethod
    def backward(ctx, upstream):
        scaled = [None if grad is None else grad * upstream.to(grad) for grad in ctx.saved_tensors]
        return *scaled, None, None, None, None


class LogProbabilities(torch.autograd.Function):
    """z[target] − logsumexp(z) at N positions, float32 [N]. Logits are made anew, in chunks, for the backward pass:
    what the gradient will be is known only when the objective has looked at whole texts.

    hidden [N, H], weight [V, H], targets int64 [N].
    """

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, scale, softcap):
        head = Head(weight, bias, scale, softcap)
        count, (hidden, targets) = len(hidden), filled(hidden, targets)
        found = [picked(z, targets[part]) for part, z in head.chunks(hidden)]
        ctx.save_for_backward(hidden, weight, bias, targets)
        ctx.scale, ctx.softcap, ctx.count = scale, softcap, count
        return torch.cat(found)[:count] if found else hidden.new_zeros(0, dtype=torch.float32)

    @staticmethod
    def backward(ctx, upstream):
        hidden, weight, bias, targets = ctx.saved_tensors
        head = Head(weight, bias, ctx.scale, ctx.softcap)
        sums = Sums(head, hidden, bias, ctx.needs_input_grad)
        (upstream,) = filled(upstream)
        for part, z in head.chunks(hidden):
            sums.add(part, z, targets[part], -upstream[part])
        return None if sums.hidden is None else sums.hidden[: ctx.count], sums.weight, sums.bias, None, None, None


class Sums:
    """The gradients of −Σ weight · log p with respect to hidden, W and b (those that are wanted), chunk by chunk."""

    def __init__(self, head, hidden, bias, wanted) -> None:  # type: ignore[no-untyped-def]
        self.head, self.states = head, hidden
        self.hidden = torch.empty_like(hidden) if wanted[0] else None
        self.weight = torch.zeros_like(head.weight) if wanted[1] else None
        self.bias = torch.zeros_like(bias) if bias is not None and wanted[2] else None

    def add(self, part: slice, z: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Take in a chunk; its logits z are written over. Returns log p of the targets."""
        at = targets[:, None]
        damped = None if self.head.softcap is None else (z / self.head.softcap).square_().neg_().add_(1)
        most, chosen = z.amax(-1, keepdim=True), z.gather(-1, at)
        total = z.sub_(most).exp_().sum(-1, keepdim=True)
        if any(grad is not None for grad in (self.hidden, self.weight, self.bias)):
            slope = z.mul_(weights[:, None] / total)  # softmax · weight
            slope.scatter_add_(-1, at, -weights[:, None])
            slope = slope if damped is None else slope.mul_(damped)
            self.spread(part, slope if self.head.scale == 1.0 else slope.mul_(self.head.scale))
        return (chosen - most - total.log())[:, 0]

    def spread(self, part: slice, slope: torch.Tensor) -> None:
        """From the gradient with respect to W h [n, V] to those that are wanted."""
        slope, states = slope.to(self.states.dtype), self.states[part]
        if self.hidden is not None:
            self.hidden[part] = products.backward(slope, self.head.weight.to(slope.dtype))
        if self.weight is not None:
            self.weight += (slope.t() @ states).to(self.weight.dtype)
        if self.bias is not None:
            self.bias += slope.sum(0).to(self.bias.dtype)


def loss(hidden: torch.Tensor, head: Head, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The weighted sum of token losses as a float64 scalar."""
    return Loss.apply(hidden, head.weight, head.bias, targets, weights, head.scale, head.softcap)


def picked(z: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """log p(target) from logits [N, V]."""
    return z.gather(-1, targets[:, None])[:, 0] - z.logsumexp(-1)


def logps(hidden: torch.Tensor, head: Head, targets: torch.Tensor) -> torch.Tensor:
    """log p of each target, float32 [N]."""
    return LogProbabilities.apply(hidden, head.weight, head.bias, targets, head.scale, head.softcap)
