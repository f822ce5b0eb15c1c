"""LoftQ (Li et al. 2023, arXiv 2310.08659): an adapter that begins as what packing its base has rounded off.

Of the paper's alternation between packing and decomposing this is one round. A second one would pack W − B A in place
of W, and the adapter would belong to a base that only this run has. Beside the base as it is packed there is no better
B A of that rank (Eckart & Young 1936). Nothing is taken from the base, so the adapter is saved as it stands.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import nn

from truetune.engines.base import EngineSpec
from truetune.engines.torch import device, inits, lora, model, pooled


def begin(adapted: nn.Module, spec: EngineSpec) -> None:
    """Let every LoRA layer of a packed model begin so. Raises as loading the model does."""
    for layer, weight in weights(adapted, spec):
        A, B = start(weight, layer.weight, spec.method.r, spec.method.scale)
        layer.lora_A.data.copy_(A)
        layer.lora_B.data.copy_(B)
    device.give_back()


def start(weight: torch.Tensor, packed: torch.Tensor, r: int, scale: float) -> lora.Pair:
    """A [r, I] and B [O, r], float32: scale · B A are the r largest singular values of W − Q, where Q is what the
    packed weight reads back as; both [O, I]."""
    return inits.pissa(weight.float() - packed.float(), r, scale)


def weights(adapted: nn.Module, spec: EngineSpec) -> Iterator[tuple[lora.LoRALinear, torch.Tensor]]:
    """The LoRA layers, each with W [O, I] as the base's files have it, on the layer's device. The files are read into
    the host's memory, and each weight is let go when the next is asked for."""
    plain = model.load(replace(spec, method=replace(spec.method, bits=0), device="cpu"), pooled.of_spec(spec))
    for name, layer in lora.layers(adapted):
        found = plain.get_submodule(name)
        weight = found.weight.t() if isinstance(found, lora.Conv1D) else found.weight
        yield layer, weight.detach().to(layer.lora_A.device)
        found.weight = None
