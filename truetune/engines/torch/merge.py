"""An adapter merged into its base: the same model as plain weights.

A layer's weight is what the layer does to the unit vectors, so whatever an adapter does linearly is in it. A packed
base is unpacked first, in float32: the adapter was trained on what the packed weights read back as, not on the original
ones, and packing the sum again would round the adapter away.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from truetune.engines.base import EngineSpec
from truetune.engines.torch import methods, model, pooled
from truetune.engines.torch.lora import LoRALinear
from truetune.engines.torch.quantised import Quantised


def merged(spec: EngineSpec) -> nn.Module:
    """The base of `spec` with its `adapter` in it, in float32. Raises as the loading of both does."""
    head = pooled.of_spec(spec)
    base = model.load(spec, head)
    return merge(methods.adapt(base, head.trained(base) if head else spec).model.eval())


@torch.no_grad()
def merge(adapted: nn.Module) -> nn.Module:
    """Every adapted or packed layer becomes the plain one that it computes; in place."""
    for name, layer in [*adapted.named_modules()]:
        if isinstance(layer, LoRALinear):
            adapted.set_submodule(name, plain(layer, layer.base))
        elif isinstance(layer, Quantised) and not name.endswith(".base"):
            adapted.set_submodule(name, plain(layer, layer))
    return adapted


def plain(layer: nn.Module, base: nn.Module) -> nn.Module:
    """The `nn.Linear` or `Conv1D` that does what `layer` does; `base` is the frozen layer that it stands over."""
    weight, bias = dense(layer, base), base.bias
    if isinstance(base, Conv1D) or getattr(base, "conv1d", False):
        made: nn.Module = Conv1D(weight.shape[0], weight.shape[1])
        made.weight = nn.Parameter(weight.t().contiguous(), requires_grad=False)
    else:
        with torch.device("meta"):
            made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        made.weight = nn.Parameter(weight, requires_grad=False)
    made.bias = None if bias is None else nn.Parameter(bias.detach().float(), requires_grad=False)
    return made


def dense(layer: nn.Module, base: nn.Module) -> torch.Tensor:
    """float32 [O, I]: what the layer makes of each unit vector, less the bias."""
    inside = base.weight.shape[0] if isinstance(base, Conv1D) else base.weight.shape[1]
    bias, base.bias = base.bias, None
    try:
        unit = torch.eye(inside, device=base.weight.device, dtype=base.weight.dtype)
        return layer(unit).t().float().contiguous()
    finally:
        base.bias = bias


def write(merged: nn.Module, folder: Path) -> None:
    """As a model folder: config.json and safetensors."""
    merged.save_pretrained(folder)
