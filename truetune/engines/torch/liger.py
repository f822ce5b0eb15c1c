"""Element-wise work on a GPU by Liger's kernels (Hsu et al. 2024, arXiv 2410.10989): RMSNorm, gated activations and
rotary positions, with frozen weights. The extra `truetune[cuda]` brings them; head and loss are our own.

A kernel stands in front of a module only where a trial on the device gives the module's values and gradients, so a
family that computes otherwise stays as it is. No class of transformers is changed: modules get a subclass each.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from inspect import unwrap
from types import FunctionType
from typing import Any

import torch
from torch import nn

from truetune.engines.torch import trial
from truetune.engines.torch.quantised import Quantised

ROTARY = "apply_rotary_pos_emb"
"""What all of transformers' families call the function that turns queries and keys."""
NORMS = ((0.0, "llama"), (1.0, "gemma"), (0.0, "gemma"))
"""What is added to the weight, and where the norm rounds: the ways in which families differ."""
GATES = ("swiglu.LigerSiLUMulFunction", "geglu.LigerGELUMulFunction")
ROWS = 5
"""Tokens of a trial."""
DEVICES = ("cuda",)
"""Where the kernels run."""


def function(name: str) -> Any:
    """`swiglu.LigerSiLUMulFunction` of Liger's, imported when it is first needed. Raises ImportError."""
    module, _, kind = name.partition(".")
    return getattr(import_module(f"liger_kernel.ops.{module}"), kind)


def install(model: nn.Module) -> dict[str, str]:
    """Put the kernels into every module that takes them; returns for each kind of work how many modules that are, or
    why there is none. The model is on a GPU."""
    try:
        function(GATES[0])
    except Exception as error:  # its kernels' compiler may be missing, or not be this torch's
        return dict.fromkeys(("norms", "gates", "rotary"), f"not used: {trial.said(error)}")
    found: dict[str, str] = {}
    for name, put in (("norms", norm), ("gates", gate), ("rotary", rotary)):
        reasons = [put(module) for module in model.modules()]
        found[name] = told([reason for reason in reasons if reason is not None])
    return found


def told(reasons: list[str]) -> str:
    refused = [reason for reason in reasons if reason]
    count = len(reasons) - len(refused)
    return (
        f"liger in {count} of {len(reasons)} modules" + (f" ({refused[0]})" if refused else "") if reasons else "none"
    )


def norm(module: nn.Module) -> str | None:
    """Have a norm computed by Liger's: why not, nothing where it is done, None for what is no RMSNorm."""
    weight, epsilon = getattr(module, "weight", None), getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if not type(module).__name__.endswith("RMSNorm") or weight is None or weight.ndim != 1 or epsilon is None:
        return None
    why = ""
    for offset, rounding in NORMS:
        way = normed(weight, epsilon, offset, rounding)
        why = trial.refusal(way, formula(module), [(ROWS, len(weight))], weight.device, weight.dtype)
        if not why:
            module.liger = offset, rounding, epsilon
            module.__class__ = before(Norm, type(module))
            return ""
    return why


def formula(module: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """A norm's own forward, with its weight in the type of what it is given."""

    def computed(x: torch.Tensor) -> torch.Tensor:
        weight = module.weight.detach().to(x.dtype)
        return torch.func.functional_call(module, {"weight": weight}, (x,))

    return computed


def normed(
    weight: torch.Tensor, epsilon: float, offset: float, rounding: str
) -> Callable[[torch.Tensor], torch.Tensor]:
    kernel = function("rms_norm.LigerRMSNormFunction")
    return lambda x: kernel.apply(x, weight, epsilon, offset, rounding, False)  # not into the gradient: others read it


class Norm(nn.Module):
    """In front of a family's RMSNorm."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not fits(x, self.weight):
            return super().forward(x)
        offset, rounding, epsilon = self.liger
        return normed(self.weight, epsilon, offset, rounding)(x)


def gate(module: nn.Module) -> str | None:
    """Have a gated block's middle computed by Liger's; results as `norm`."""
    parts = ("gate_proj", "up_proj", "down_proj", "act_fn")
    if not all(callable(getattr(module, name, None)) for name in parts):
        return None
    if not computes(module):
        return "its forward is another"
    why = ""
    for name in GATES:
        why = gated(name, module.act_fn, module.gate_proj.out_features, *kind(module.gate_proj))
        if not why:
            module.liger = name
            module.__class__ = before(Gate, type(module))
            return ""
    return why


@torch.no_grad()
def computes(module: nn.Module) -> bool:
    """Whether the block is down(act(gate(x)) · up(x)), to the bit."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, module.gate_proj.in_features, generator=draw).to(*kind(module.gate_proj))
    return torch.equal(module(x), module.down_proj(module.act_fn(module.gate_proj(x)) * module.up_proj(x)))


def gated(name: str, act: nn.Module, width: int, device: torch.device, dtype: torch.dtype) -> str:
    way = function(name).apply
    return trial.refusal(way, lambda a, b: act(a) * b, [(ROWS, width)] * 2, device, dtype)


class Gate(nn.Module):
    """In front of a family's gated block."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not runs(x):
            return super().forward(x)
        return self.down_proj(function(self.liger).apply(self.gate_proj(x), self.up_proj(x)))


def rotary(module: nn.Module) -> str | None:
    """Have queries and keys turned by Liger's; results as `norm`."""
    if not hasattr(module, "q_proj"):
        return None
    forward = unwrap(type(module).forward)
    own = forward.__globals__.get(ROTARY)
    if ROTARY not in forward.__code__.co_names or own is None or not hasattr(module, "head_dim"):
        return None
    why = turned(own, module.head_dim, *kind(module.q_proj))
    if not why:
        module.__class__ = turning(type(module))
    return why


@cache
def turned(own: Callable[..., Any], dim: int, device: torch.device, dtype: torch.dtype) -> str:
    draw = torch.Generator().manual_seed(0)
    half = torch.rand(1, ROWS, dim // 2, generator=draw) * 6
    angles = torch.cat((half, half), -1).to(device)

    def by(way: Callable[..., Any]) -> Callable[..., Any]:
        return lambda q, k: way(
            q.transpose(1, 2), k.transpose(1, 2), angles.cos().to(q.dtype), angles.sin().to(q.dtype)
        )

    return trial.refusal(by(turn), by(own), [(1, ROWS, 4, dim), (1, ROWS, 2, dim)], device, dtype)


def turn(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """q [1, H, T, D], k [1, K, T, D], written over; cos and sin [1, T, D]."""
    return function("rope.LigerRopeFunction").apply(q, k, cos, sin)


@cache
def turning(family: type[nn.Module]) -> type[nn.Module]:
    """The family's attention, whose forward finds our function by the name under which it calls its own."""
    forward = unwrap(family.forward)
    own = forward.__globals__[ROTARY]

    def either(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *given: Any, **keys: Any) -> Any:
        plain = given or keys or q.dtype != cos.dtype or not runs(q)
        return own(q, k, cos, sin, *given, **keys) if plain else turn(q, k, cos, sin)

    names = {**forward.__globals__, ROTARY: either}
    copied = FunctionType(forward.__code__, names, forward.__name__, forward.__defaults__, forward.__closure__)
    copied.__kwdefaults__ = forward.__kwdefaults__
    return type(family.__name__, (family,), {"forward": copied})


@cache
def before(kind: type[nn.Module], family: type[nn.Module]) -> type[nn.Module]:
    """The family's class with this forward before its own."""
    return type(family.__name__, (kind, family), {})


def kind(layer: nn.Linear | Quantised) -> tuple[torch.device, torch.dtype]:
    """Where a layer computes, and in which numbers."""
    if isinstance(layer, Quantised):
        return layer.packed.device, layer.dtype
    return layer.weight.device, layer.weight.dtype


def runs(x: torch.Tensor) -> bool:
    return x.device.type in DEVICES


def fits(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether the trial was about such a call: the weight's own type, on a GPU, and frozen."""
    return runs(x) and x.dtype == weight.dtype and not weight.requires_grad
