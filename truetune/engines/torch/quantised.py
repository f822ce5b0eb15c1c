"""Frozen linear layers in 4 or 8 bits, by bitsandbytes: QLoRA (Dettmers et al. 2023, arXiv 2305.14314).

4 bits are NF4 (or FP4, in bases that come so) in blocks with a scale each; 8 bits have a scale per output (LLM.int8(),
Dettmers et al. 2022, arXiv 2208.07339). A layer computes with its weights as they read back, in the model's number
type: x is never rounded. Only what is packed is kept for the backward pass, which unpacks it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from importlib import import_module
from types import ModuleType
from typing import Any, Protocol, cast

import torch
from torch import nn
from transformers import BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from truetune.engines import keep_out_kernels
from truetune.engines.torch import device


class Ahead(Protocol):
    """What unpacks layers before they are asked for: `unpack.Ahead`."""

    def lend(self, layer: Quantised, *, backward: bool = False) -> torch.Tensor: ...


class Quantised(nn.Linear):
    """A frozen linear layer whose `weight` [O, I] is unpacked each time it is asked for.

    packed uint8 (4 bits) or int8 [O, I]; `scales` is bitsandbytes' state of 4 bits, float32 [O] of 8 bits.
    """

    def __init__(self, packed: torch.Tensor, scales: Any, shape: tuple[int, int], dtype: torch.dtype) -> None:
        nn.Module.__init__(self)  # nn.Linear's would make the dense weight
        self.out_features, self.in_features = shape
        self.packed, self.scales, self.dtype = packed, scales, dtype
        self.conv1d = False
        """Whether it stands for GPT-2's `Conv1D`, which keeps its weight transposed."""
        self.ahead: Ahead | None = None
        self.register_parameter("bias", None)

    @property
    def bits(self) -> int:
        return 8 if isinstance(self.scales, torch.Tensor) else 4

    @property
    def weight(self) -> torch.Tensor:
        functional = library().functional
        if self.bits == 8:
            return functional.int8_vectorwise_dequant(self.packed, self.scales).to(self.dtype)
        return unpacked(self.packed, self.scales).to(self.dtype)

    def lent(self, *, backward: bool = False) -> torch.Tensor:
        """`weight`, until another layer is asked: for a product that is begun at once."""
        return self.weight if self.ahead is None else self.ahead.lend(self, backward=backward)

    @property
    def size(self) -> int:
        """Weights, as they count in the model."""
        return self.out_features * self.in_features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = Product.apply(x.reshape(-1, x.shape[-1]), self)
        if self.bias is not None:
            y = y + self.bias
        return y.view(*x.shape[:-1], -1)


class Product(torch.autograd.Function):
    """x [N, I] -> x Wᵀ [N, O]; W is unpacked in both directions and kept in neither."""

    @staticmethod
    def forward(ctx, x, layer):
        ctx.layer = layer
        return torch.mm(x, layer.lent().t())

    @staticmethod
    def backward(ctx, grad):
        return torch.mm(grad, ctx.layer.lent(backward=True)), None


def unpacked(packed: torch.Tensor, state: Any) -> torch.Tensor:
    """4 bits as they were packed, whatever the width of a row. On a CPU bitsandbytes (0.50) takes each row to begin a
    block of its own, and reads others' scales where rows are no whole blocks: there it is given one long row."""
    if packed.device.type != "cpu":
        return cast(torch.Tensor, library().functional.dequantize_4bit(packed, state))
    line = copy(state)
    line.shape = torch.Size((1, state.shape.numel()))
    return cast(torch.Tensor, library().functional.dequantize_4bit(packed, line).view(state.shape))


def library() -> ModuleType:
    """bitsandbytes, imported when it is first needed."""
    keep_out_kernels()
    return import_module("bitsandbytes")


def loading(
    bits: int, stored: Mapping[str, Any] | None, dtype: torch.dtype, place: str, kept: Sequence[str] = ()
) -> dict[str, Any]:
    """What transformers' loader needs so that each layer is packed as it is read; nothing for 0 bits. `stored` is the
    `quantization_config` of a base that comes packed, `kept` are modules that stay as they are."""
    if not bits and not stored:
        return {}
    library()
    if stored:
        return {"device_map": {"": place}}
    wanted = BitsAndBytesConfig(
        load_in_4bit=bits == 4,
        load_in_8bit=bits == 8,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=list(kept) or None,  # of 4 bits too, whatever its name
    )
    return {"device_map": {"": place}, "quantization_config": wanted}


def replace(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Put our layers in place of bitsandbytes', which would round x to 8 bits, or compute in bfloat16 on some CPUs."""
    bnb = library()
    for name, module in [*model.named_modules()]:
        if isinstance(module, bnb.nn.Linear4bit | bnb.nn.Linear8bitLt):
            model.set_submodule(name, ours(module, dtype))
    for attribute in ("hf_quantizer", "is_loaded_in_4bit", "is_loaded_in_8bit", "quantization_method", "is_quantized"):
        vars(model).pop(attribute, None)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    for parameter in model.parameters():  # one view into a file keeps the pages of all of its weights in memory
        if parameter.device.type == "cpu":
            parameter.data = parameter.data.clone()
    device.give_back()
    return model


def ours(module: Any, dtype: torch.dtype) -> Quantised:
    scales = module.weight.quant_state if hasattr(module.weight, "quant_state") else module.weight.SCB
    shape = (module.out_features, module.in_features)
    layer = Quantised(module.weight.data, scales, shape, dtype)
    layer.conv1d = module.source_cls is Conv1D
    if module.bias is not None:
        layer.bias = nn.Parameter(module.bias.data.to(dtype), requires_grad=False)
    return layer


def layers(model: nn.Module) -> Iterator[tuple[str, Quantised]]:
    """All quantised layers by name."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, Quantised))


def parameters(model: nn.Module) -> int:
    """Numbers of the model, packed ones as they count before packing."""
    return sum(p.numel() for p in model.parameters()) + sum(layer.size for _, layer in layers(model))
