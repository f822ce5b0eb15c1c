"""What the last layer need not compute: behind its attention no token is seen by another any more, so positions that
nothing is predicted from are left out of its output projection and its MLP, forward and backward.

The layer itself runs as it is; these two modules are given the wanted rows alone, and zeros stand in for the others,
whose hidden states nobody looks at.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from truetune.engines.torch import products

NAMES = ("self_attn.o_proj", "mlp")
MOST = 0.9
"""Share of wanted positions above which nothing is left out: it would cost more than it saves."""


class Spared:
    """The modules of a model's last layer that treat each token by itself."""

    def __init__(self, model: nn.Module) -> None:
        self.layer = last(model)
        self.wanted: tuple[torch.Tensor, int] | None = None
        for module in alone(model, self.layer) if self.layer else ():
            module.register_forward_pre_hook(self._take)
            module.register_forward_hook(self._give)

    @contextmanager
    def at(self, places: torch.Tensor, length: int) -> Iterator[None]:
        """Within, they compute these positions (int64 [M], each once) of a packed row of `length` tokens."""
        again = getattr(self.layer, "gradient_checkpointing", False)  # then the layer runs once more, later
        if len(places) <= MOST * length and not again:
            self.wanted = more(places, length), length
        try:
            yield
        finally:
            self.wanted = None

    def _take(self, module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
        return (given[0].index_select(1, self.wanted[0]), *given[1:]) if self.wanted else None

    def _give(self, module: nn.Module, given: tuple[Any, ...], found: torch.Tensor) -> torch.Tensor | None:
        if self.wanted is None:
            return None
        places, length = self.wanted
        return found.new_zeros(1, length, found.shape[-1]).index_copy(1, places, found)


def more(places: torch.Tensor, length: int) -> torch.Tensor:
    """With a few of the other positions, where this processor multiplies rounded numbers of rows."""
    missing = products.missing(len(places), places.device)
    if not missing:
        return places
    others = torch.ones(length, dtype=torch.bool).index_fill(0, places, False).nonzero()[:missing, 0]
    return torch.cat((places, others)).sort().values


def last(model: nn.Module) -> nn.Module | None:
    layers = getattr(model.base_model, "layers", None)
    return layers[-1] if isinstance(layers, nn.ModuleList) and len(layers) else None


def alone(model: nn.Module, layer: nn.Module) -> list[nn.Module]:
    """Those of `NAMES` that give a token the same whatever stands beside it."""
    modules = dict(layer.named_modules())
    hidden = model.config.get_text_config().hidden_size
    found = [modules[name] for name in NAMES if name in modules]
    widths = [getattr(getattr(module, "base", module), "in_features", hidden) for module in found]
    kind = model.dtype, model.device
    return [module for module, width in zip(found, widths, strict=True) if by_itself(module, width, *kind)]


def by_itself(module: nn.Module, width: int, dtype: torch.dtype, place: torch.device | str = "cpu") -> bool:
    """Whether two of three tokens, given to the module alone, come out as they do among the three."""
    x = torch.randn(1, 3, width, generator=torch.Generator().manual_seed(0)).to(place, dtype)
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            whole, part = module(x), module(x[:, 1:])
    except RuntimeError:  # trained in other numbers than the model's
        return False
    finally:
        module.train(training)
    if not (isinstance(whole, torch.Tensor) and whole.shape == (1, 3, whole.shape[-1])):
        return False
    return bool((whole[:, 1:] - part).abs().max() <= 0.02 * whole.abs().max())
