"""The output head and the loss in one: cross-entropy at supervised positions, in chunks, with the gradient made in
the forward pass, so that logits for the whole step never exist at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

CHUNK = 4 * 1024 * 1024
"""Most logits (positions × vocabulary) alive at once."""


@dataclass(frozen=True)
class Head:
    """The projection from hidden states to logits: z = W h (+ b), times `scale`, then softcap · tanh(z / softcap)."""

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden [N, H] -> float32 logits [N, V]."""
        z = torch.nn.functional.linear(hidden, self.weight.to(hidden.dtype), self.bias).float()
        if self.scale != 1.0:
            z = z * self.scale
        return z if self.softcap is None else torch.tanh(z / self.softcap) * self.softcap


def of(model: nn.Module) -> Head:
    """The head of a causal model whose logits are exactly `Head.logits` (held by the packing contract test)."""
    layer, config = model.get_output_embeddings(), model.config
    softcap = getattr(config, "final_logit_softcapping", None)
    return Head(layer.weight, layer.bias, softcap=softcap)


class Loss(torch.autograd.Function):
    """Σ weight · (logsumexp(z) − z[target]) over N positions.

    hidden [N, H], weight [V, H], targets int64 [N], weights float32 [N].
    """

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, weights, scale, softcap):
        head = Head(weight.detach(), None if bias is None else bias.detach(), scale, softcap)
        need_hidden, need_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_weight = torch.zeros_like(weight) if need_weight else None
        grad_bias = torch.zeros_like(bias) if bias is not None and ctx.needs_input_grad[2] else None
        wide = torch.float32 if hidden.device.type == "mps" else torch.float64
        total = torch.zeros((), dtype=wide, device=hidden.device)
        rows = max(1, CHUNK // weight.shape[0])
        for start in range(0, hidden.shape[0], rows):
            part = slice(start, start + rows)
            z = head.logits(hidden[part])
            picked = targets[part, None]
            losses = z.logsumexp(-1) - z.gather(-1, picked).squeeze(-1)
            total = total + (losses * weights[part]).sum().to(total)
            if not (need_hidden or need_weight):
                continue
            grad = slope(z, picked, weights[part], scale, softcap).to(hidden.dtype)
            if need_hidden:
                grad_hidden[part] = grad @ head.weight.to(hidden.dtype)
            if need_weight:
                grad_weight += (grad.t() @ hidden[part]).to(weight.dtype)
            if grad_bias is not None:
                grad_bias += grad.sum(0).to(bias.dtype)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        return total

    @staticmethod
    def backward(ctx, upstream):
        scaled = [None if grad is None else grad * upstream.to(grad) for grad in ctx.saved_tensors]
        return *scaled, None, None, None, None


def slope(z, picked, weights, scale, softcap):  # type: ignore[no-untyped-def]
    """Gradient of the weighted loss with respect to the raw projection W h, [N, V]."""
    grad = z.softmax(-1)
    grad.scatter_add_(-1, picked, torch.full_like(picked, -1, dtype=grad.dtype))
    grad *= weights[:, None]
    if softcap is not None:
        grad *= 1 - (z / softcap).square()
    return grad if scale == 1.0 else grad * scale


def loss(hidden: torch.Tensor, head: Head, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The weighted sum of token losses as a float64 scalar."""
    return Loss.apply(hidden, head.weight, head.bias, targets, weights, head.scale, head.softcap)


class LogProbabilities(torch.autograd.Function):
    """z[target] − logsumexp(z) at N positions, float32 [N]. Logits are made anew, in chunks, for the backward pass:
    what the gradient will be is known only when the objective has looked at whole texts.

    hidden [N, H], weight [V, H], targets int64 [N].
    """

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, scale, softcap):
        head = Head(weight, bias, scale, softcap)
        found = [picked(head.logits(hidden[part]), targets[part]) for part in chunks(hidden, weight)]
        ctx.save_for_backward(hidden, weight, bias, targets)
        ctx.scale, ctx.softcap = scale, softcap
        return torch.cat(found) if found else hidden.new_zeros(0, dtype=torch.float32)

    @staticmethod
    def backward(ctx, upstream):
        hidden, weight, bias, targets = ctx.saved_tensors
        head = Head(weight, bias, ctx.scale, ctx.softcap)
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_weight = torch.zeros_like(weight) if need_weight else None
        grad_bias = torch.zeros_like(bias) if bias is not None and need_bias else None
        for part in chunks(hidden, weight):
            z = head.logits(hidden[part])
            grad = slope(z, targets[part, None], -upstream[part], ctx.scale, ctx.softcap).to(hidden.dtype)
            if need_hidden:
                grad_hidden[part] = grad @ weight.to(hidden.dtype)
            if need_weight:
                grad_weight += (grad.t() @ hidden[part]).to(weight.dtype)
            if grad_bias is not None:
                grad_bias += grad.sum(0).to(bias.dtype)
        return grad_hidden, grad_weight, grad_bias, None, None, None


def chunks(hidden: torch.Tensor, weight: torch.Tensor) -> list[slice]:
    rows = max(1, CHUNK // weight.shape[0])
    return [slice(start, start + rows) for start in range(0, hidden.shape[0], rows)]


def picked(z: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """log p(target) from logits [N, V]."""
    return z.gather(-1, targets[:, None])[:, 0] - z.logsumexp(-1)


def logps(hidden: torch.Tensor, head: Head, targets: torch.Tensor) -> torch.Tensor:
    """log p of each target, float32 [N]."""
    return LogProbabilities.apply(hidden, head.weight, head.bias, targets, head.scale, head.softcap)
