"""LoRA (Hu et al. 2021, arXiv 2106.09685) as one autograd function: y = x Wᵀ + bias + scale · (drop(x) Aᵀ) Bᵀ.

Only x, the rank-r product and the dropout mask are kept for the backward pass; a quantised base is unpacked again.
Names and files follow PEFT's layout, so PEFT loads what is saved here and the other way round.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from truetune.engines import adapter, family
from truetune.engines.base import Method
from truetune.engines.torch import config, products
from truetune.engines.torch.quantised import Quantised


class Product(torch.autograd.Function):
    """Shapes: x [N, I], A [r, I], B [O, r], mask [N, I] bool or None; `base` is W [O, I] (or [I, O] when `transposed`),
    or the quantised layer that has it."""

    @staticmethod
    def forward(ctx, x, base, bias, A, B, scale, mask, keep, transposed):
        W = base.lent() if isinstance(base, Quantised) else base
        A16, B16 = A.to(x.dtype), B.to(x.dtype)
        y = products.forward(x, W.t() if transposed else W)
        if bias is not None:
            y += bias
        dropped = x if mask is None else x * mask / keep
        h = products.forward(dropped, A16)
        y.addmm_(h, B16.t(), alpha=scale)
        ctx.packed = base if isinstance(base, Quantised) else None
        ctx.save_for_backward(x, None if ctx.packed else W, A, B, h, mask)
        ctx.scale, ctx.keep, ctx.transposed = scale, keep, transposed
        return y

    @staticmethod
    def backward(ctx, grad):
        x, W, A, B, h, mask = ctx.saved_tensors
        dropped = x if mask is None else x * mask / ctx.keep
        grad_h = products.backward(grad, B.to(grad.dtype)).mul_(ctx.scale)
        grad_A = products.outer(grad_h, dropped).to(A.dtype)
        grad_B = products.outer(h, grad).mul_(ctx.scale).t().to(B.dtype)
        grad_x = None
        if ctx.needs_input_grad[0]:
            W = ctx.packed.lent(backward=True) if ctx.packed else W
            W, A16 = W.t() if ctx.transposed else W, A.to(grad.dtype)
            if mask is None:
                grad_x = products.sum_backward(grad, W, grad_h, A16)
            else:
                grad_x = products.backward(grad, W).add_((grad_h @ A16) * mask / ctx.keep)
        return grad_x, None, None, grad_A, grad_B, None, None, None, None


Pair = tuple[torch.Tensor, torch.Tensor]
"""A [r, I] and B [O, r]."""


class LoRALinear(nn.Module):
    """A frozen linear layer (`nn.Linear` or GPT-2's `Conv1D`) with a trained rank-r addition."""

    def __init__(self, base: nn.Module, method: Method) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.transposed = isinstance(base, Conv1D)
        inside, outside = base.weight.shape if self.transposed else base.weight.shape[::-1]
        device = base.weight.device
        self.lora_A = nn.Parameter(torch.empty(method.r, inside, dtype=torch.float32, device=device))
        self.lora_B = nn.Parameter(torch.zeros(outside, method.r, dtype=torch.float32, device=device))
        self.scale, self.dropout = method.scale, method.dropout
        self.taken: Pair | None = None
        """A and B at the start of training where they are not nothing: this part of W is theirs, and W does without."""
        self.enabled = True

    def reset(self, name: str, seed: int) -> None:
        """PEFT's start, the same on every device and engine."""
        self.lora_A.data.copy_(torch.from_numpy(adapter.start(name, *self.lora_A.shape, seed)))
        self.lora_B.data.zero_()

    def take(self, start: Pair) -> None:
        """Begin as a part of W (A [r, I], B [O, r]), which is taken away from it: the layer's output stays."""
        self.lora_A.data.copy_(start[0])
        self.lora_B.data.copy_(start[1])
        self.taken = self.lora_A.detach().clone(), self.lora_B.detach().clone()

    @property
    def weight(self) -> torch.Tensor:
        """W of the base, [O, I]."""
        return self.base.weight.t() if self.transposed else self.base.weight

    def change(self) -> Pair:
        """A and B such that the layer has W + scale · B A: of twice the rank where a part of W was taken."""
        if self.taken is None:
            return self.lora_A, self.lora_B
        return torch.cat([self.lora_A, self.taken[0]]), torch.cat([self.lora_B, -self.taken[1]], dim=1)

    def tensors(self) -> dict[str, nn.Parameter]:
        """What is trained, as PEFT calls it."""
        return {"lora_A.weight": self.lora_A, "lora_B.weight": self.lora_B}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.enabled:
            return self.base(x)
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        flat = x.reshape(-1, x.shape[-1])
        mask = None
        if self.training and self.dropout:
            mask = torch.rand(flat.shape, device=x.device) >= self.dropout
        return self.changed(flat, mask).view(*x.shape[:-1], -1)

    def changed(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """x [N, I] -> [N, O], with the addition to those of x that `mask` leaves."""
        return self.product(x, mask, self.base.bias)

    def product(self, x: torch.Tensor, mask: torch.Tensor | None, bias: torch.Tensor | None) -> torch.Tensor:
        base, keep = (self.base if isinstance(self.base, Quantised) else self.base.weight), 1 - self.dropout
        apart = self.taken is not None and mask is not None  # W itself knows no dropout
        A, B = (self.lora_A, self.lora_B) if apart else self.change()
        y = Product.apply(x, base, bias, A, B, self.scale, mask, keep, self.transposed)
        return y - self.without(x) if apart else y

    def without(self, x: torch.Tensor) -> torch.Tensor:
        """What the part of W that was taken makes of x."""
        assert self.taken
        A, B = (matrix.to(x.dtype) for matrix in self.taken)
        return (x @ A.t()) @ B.t() * self.scale


def attach(model: nn.Module, method: Method, seed: int, kind: type[LoRALinear] = LoRALinear) -> list[str]:
    """Freeze the model, put a layer of this kind at every target, return the targets' names in the model's order."""
    model.requires_grad_(False)
    every, wanted = linear_names(model), method.target_modules
    if wanted == "auto":
        every = beside_experts(model, every)
        own = config.brought(model.config.model_type)
        wanted = own.targets if own and own.targets else wanted
    names = adapter.select(family.outside(every, method), wanted)
    for name in names:
        parent, _, child = name.rpartition(".")
        owner = model.get_submodule(parent)
        layer = kind(getattr(owner, child), method)
        layer.reset(name, seed)
        setattr(owner, child, layer)
    return names


def beside_experts(model: nn.Module, names: list[str]) -> list[str]:
    """Those outside the blocks that send each token to a few experts: what a token passes in every layer."""
    blocks = [name.rpartition(".")[0] for name, _ in model.named_modules() if name.endswith(".experts")]
    return [name for name in names if not any(name.startswith(block + ".") for block in blocks)]


def layers(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    """All LoRA layers with their names, in the model's order."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, LoRALinear))


def linear_names(model: nn.Module) -> list[str]:
    """Every linear layer but the output head."""
    head = model.get_output_embeddings()
    return [
        name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D) and module is not head
    ]
