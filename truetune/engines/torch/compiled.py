"""Decoder layers compiled one by one (`torch.compile`), for long runs on a GPU.

All layers of a class share what is compiled, whatever the length of a row. Attention stays outside, for where segments
begin and end is another thing in every micro-batch, and so does all that is not training: measuring and answering. A
trial on the model's own step decides; what a compiler says against it becomes a line, and the model stays as it was.
Beyond torch's limit of compilations it goes on uncompiled by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from inspect import unwrap
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.modeling_layers import GradientCheckpointingLayer

from truetune.engines.torch import attention, quantised, trial

OPTIONS = {"fallback_random": True}
"""Dropout draws what it would draw uncompiled: a run that goes on elsewhere, or without, draws the same."""
BACKEND = "inductor"
FAR = {torch.float32: 1e-3, torch.bfloat16: 0.06, torch.float16: 0.02}
"""How far a trial's gradient may be from the uncompiled one, as a part of its length, by the base's numbers."""
Attempt = Callable[[], Sequence[torch.Tensor]]


class Held:
    """Segments on their way through a compiled layer, which does not look into it."""

    def __init__(self, value: Any) -> None:
        self.value = value


def install(model: nn.Module, attempt: Attempt) -> str:
    """Compile the layers, if `attempt` (a small step: the loss, then gradients) gives the same with them. Returns how
    that went."""
    every = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    layers = [layer for layer in every if not hooked(layer)]
    if not layers:
        return "not compiled (the model's layers are not told apart)"
    if next(quantised.layers(model), None):
        return "not compiled (a packed base unpacks its layers itself)"
    before, families = attempt(), [type(layer) for layer in layers]
    try:
        apart()
        for layer in layers:
            layer.__class__ = region(type(layer))
        why = further(attempt(), before, FAR[model.dtype])
    except Exception as error:  # whatever a compiler says
        why = trial.said(error)
    if why:
        for layer, family in zip(layers, families, strict=True):
            layer.__class__ = family
        return f"not compiled ({why})"
    return f"{len(layers)} of {len(every)} compiled"


def hooked(layer: nn.Module) -> bool:
    """Whether something is done to what goes through the layer, such as leaving tokens out: sizes change inside it."""
    return any(module._forward_pre_hooks or module._forward_hooks for module in layer.modules())


def further(ours: Sequence[torch.Tensor], plain: Sequence[torch.Tensor], most: float) -> str:
    for place, (one, other) in enumerate(zip(ours, plain, strict=True)):
        off = float((one.double() - other.double()).norm() / other.double().norm().clamp(min=1e-12))
        if not off <= most:
            return f"tensor {place} of a trial is {off:.2g} off"
    return ""


@cache
def region(family: type[nn.Module]) -> type[nn.Module]:
    """The class of layers with a compiled forward for training."""
    inner = unwrap(family.forward)
    options = OPTIONS if BACKEND == "inductor" else None
    compiled = torch.compile(inner, dynamic=True, backend=BACKEND, options=options)

    def forward(self: nn.Module, *given: Any, **keys: Any) -> Any:
        if not (self.training and torch.is_grad_enabled()):
            return inner(self, *given, **keys)
        if "segments" in keys:
            keys["segments"] = Held(keys["segments"])
        return compiled(self, *given, **keys)

    return type(family.__name__, (family,), {"forward": forward})


@cache
def apart() -> None:
    """Packed attention as something that no compiler looks into."""

    def packed(*given: Any, segments: Any = (), **keys: Any) -> Any:
        return attention.packed(*given, segments=getattr(segments, "value", segments), **keys)

    AttentionInterface.register(attention.NAME, torch.compiler.disable(packed))
