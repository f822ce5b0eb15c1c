"""Gradient checkpointing, and where the layers' inputs wait meanwhile: on their device, or in the host's memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

Kept = tuple[torch.device, torch.Tensor]
"""Where a tensor was, and what holds its values now."""


def checkpoint(model: nn.Module, *, offload: bool) -> None:
    """Let every layer keep its input alone for the backward pass, and compute the rest again; with `offload` that input
    is in the host's memory until it is asked for. Neither changes a bit of the gradient."""
    model.activation_checkpointing_enable({"use_reentrant": False})
    for layer in model.modules() if offload else ():
        if compute := vars(layer).get("_gradient_checkpointing_func"):
            layer._gradient_checkpointing_func = outside(compute)


def outside(compute: Callable[..., Any]) -> Callable[..., Any]:
    """Checkpointing whose inputs wait in the host's memory: what it saves inside a layer has hooks of its own."""

    def computed(*given: Any) -> Any:
        with saved_tensors_hooks(away, back):
            return compute(*given)

    return computed


def away(tensor: torch.Tensor) -> Kept:
    """A copy in the host's memory, page-locked where it comes from a GPU: nothing waits for it. What needs no gradient,
    such as a mask that all layers share, stays where it is."""
    if not tensor.requires_grad:
        return tensor.device, tensor.detach()
    held = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
    return tensor.device, held.copy_(tensor.detach(), non_blocking=tensor.is_cuda)


def back(kept: Kept) -> torch.Tensor:
    """Undo `away`."""
    device, held = kept
    return held.to(device, non_blocking=True)
