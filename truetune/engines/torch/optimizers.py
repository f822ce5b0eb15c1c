"""Optimizers: how the weights follow from their gradients. The library's own where there is one.

In all of them weight decay is decoupled from the gradient (Loshchilov & Hutter 2019), w ← w − lr · decay · w before the
update, and on matrices only, as transformers' Trainer has it (no decay on norms and biases).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Union

import torch
from torch import nn

from truetune.engines import base
from truetune.engines.optimizers import rates
from truetune.engines.torch import quantised
from truetune.engines.torch.methods import Adapted

Optimizer = Union[torch.optim.Optimizer, "Both"]
Groups = list[dict[str, Any]]
"""torch's parameter groups. `rate` is the share of the step's learning rate, `hidden` whether Muon may have them."""


def of(adapted: Adapted, spec: base.EngineSpec) -> Optimizer:
    """The optimizer of what a method trains."""
    parameters = adapted.parameters
    return make(parameters, spec.optimizer, rates(parameters, spec.method), lookups(adapted.model, parameters))


def make(
    parameters: Mapping[str, nn.Parameter],
    settings: base.Optimizer,
    rates: Mapping[str, float] | None = None,
    tables: Collection[str] = (),
) -> Optimizer:
    """The optimizer of these parameters by name. `rates` is the share of the learning rate of those whose share is not
    1; `tables` names those that are looked up or are the head (`lookups`)."""
    return TABLE[settings.type](groups(parameters, settings, rates or {}, tables), settings)


def groups(
    parameters: Mapping[str, nn.Parameter],
    settings: base.Optimizer,
    rates: Mapping[str, float],
    tables: Collection[str] = (),
) -> Groups:
    """Parameters of one decay and one rate stand together, in their order."""
    found: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        decay = settings.weight_decay if parameter.ndim >= 2 else 0.0
        kind = decay, rates.get(name, 1.0), parameter.ndim == 2 and name not in tables
        found.setdefault(kind, []).append(parameter)
    return [
        {"params": params, "weight_decay": decay, "rate": rate, "hidden": hidden}
        for (decay, rate, hidden), params in found.items()
    ]


def set_rate(optimizer: Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * group["rate"]


def lookups(model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> set[str]:
    """Names of the parameters that are rows to look up, or the head: Muon is not for them (Jordan 2024)."""
    modules = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    owned = {id(p) for module in [*modules, *([] if head is None else [head])] for p in module.parameters()}
    return {name for name, parameter in parameters.items() if id(parameter) in owned}


def adam(settings: base.Optimizer) -> dict[str, Any]:
    return {"lr": 0.0, "betas": (settings.beta1, settings.beta2), "eps": settings.epsilon}


def adamw(groups: Groups, settings: base.Optimizer) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, **adam(settings), fused=True)


def packed(name: str) -> Callable[[Groups, base.Optimizer], torch.optim.Optimizer]:
    """AdamW of bitsandbytes: moments in 8 bits by blocks of 256 (Dettmers et al. 2022, arXiv 2110.02861; tensors of
    fewer than 4,096 numbers stay in 32), or in memory that a GPU shares with its host, or both."""
    return lambda groups, settings: getattr(quantised.library().optim, name)(groups, **adam(settings))


def adafactor(groups: Groups, settings: base.Optimizer) -> torch.optim.Optimizer:
    """Adafactor (Shazeer & Stern 2018, arXiv 1804.04235) at the given learning rate, as the Trainer of transformers
    uses it: one number per row and column instead of AdamW's two per weight. Imported here: it brings PEFT along."""
    from transformers.optimization import Adafactor

    return Adafactor(groups, lr=0.0, scale_parameter=False, relative_step=False, warmup_init=False)


def lion(groups: Groups, settings: base.Optimizer) -> torch.optim.Optimizer:
    return Lion(groups)


def muon(groups: Groups, settings: base.Optimizer) -> Optimizer:
    """Muon (Jordan 2024) for the matrices inside the model, AdamW for the rest. The updates are scaled to the size of
    AdamW's (Liu et al. 2025, arXiv 2502.16982), so that one learning rate does for both."""
    hidden = [group for group in groups if group["hidden"]]
    rest = [group for group in groups if not group["hidden"]]
    parts = [torch.optim.Muon(hidden, lr=0.0, adjust_lr_fn="match_rms_adamw")] if hidden else []
    parts += [adamw(rest, settings)] if rest else []
    return Both(*parts)


def sgd(groups: Groups, settings: base.Optimizer) -> torch.optim.Optimizer:
    return Sgd([group | {"weight_decay": 0.0, "decay": group["weight_decay"]} for group in groups], momentum=0.9)


TABLE: dict[str, Callable[[Groups, base.Optimizer], Optimizer]] = {
    "adamw": adamw,
    "adamw_8bit": packed("AdamW8bit"),
    "paged_adamw": packed("PagedAdamW32bit"),
    "paged_adamw_8bit": packed("PagedAdamW8bit"),
    "adafactor": adafactor,
    "lion": lion,
    "muon": muon,
    "sgd": sgd,
}


class Lion(torch.optim.Optimizer):
    """Lion (Chen et al. 2023, arXiv 2302.06675): w ← w − lr (sign(β₁ m + (1 − β₁) g) + decay · w), then
    m ← β₂ m + (1 − β₂) g."""

    def __init__(self, groups: Groups) -> None:
        super().__init__(groups, {"lr": 0.0, "betas": (0.9, 0.99)})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.update(parameter, group)

    def update(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        state, (fast, slow), lr = self.state[parameter], group["betas"], group["lr"]
        if not state:
            state["exp_avg"] = torch.zeros_like(parameter)
        mean = state["exp_avg"]
        direction = mean.mul(fast).add_(parameter.grad, alpha=1 - fast).sign_()
        parameter.mul_(1 - lr * group["weight_decay"]).add_(direction, alpha=-lr)
        mean.mul_(slow).add_(parameter.grad, alpha=1 - slow)


class Sgd(torch.optim.SGD):
    """Descent with momentum; the decay goes beside it and not through it, as in all the others."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1 - group["lr"] * group["decay"])
        super().step()


class Both:
    """Several optimizers, each with parameters of its own, as one."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts = parts
        for part in parts:
            part.state = parts[0].state

    @property
    def state(self) -> dict[nn.Parameter, dict[str, Any]]:
        return self.parts[0].state

    @property
    def param_groups(self) -> Groups:
        return [group for part in self.parts for group in part.param_groups]

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)
