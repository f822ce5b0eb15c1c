"""Which kernels compute a model, chosen when it is loaded, and why others do not."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedConfig

from truetune.engines.base import EngineSpec
from truetune.engines.torch import attention, fused, liger, unpack, varlen


def install(model: nn.Module, spec: EngineSpec) -> dict[str, str]:
    """Put in what this device has kernels for. Returns a line for each kind of work on a GPU, nothing elsewhere."""
    if not spec.device.startswith("cuda"):
        fused.install(model)
        return {}
    fuses = spec.compiled and not spec.method.bits  # the compiler does what Liger's kernels do
    found = {} if fuses else liger.install(model)
    if all(said.startswith("not used") for said in found.values()):
        fused.install(model)
    if not spec.offload and (how := unpack.install(model)):
        found["unpacking"] = how  # where memory is that tight, there is none for two buffers
    return found | {"attention": attending(model.config, model.device, model.dtype)}


def attending(config: PreTrainedConfig, device: torch.device, dtype: torch.dtype) -> str:
    """How packed segments are attended to."""
    if config._attn_implementation != attention.NAME:
        return "transformers' own, padded"
    if not varlen.narrow(dtype):
        return f"segment by segment ({dtype} has no kernel)"
    settings = config.get_text_config()
    heads = settings.num_attention_heads
    kv_heads = getattr(settings, "num_key_value_heads", None) or heads
    dim = getattr(settings, "head_dim", None) or settings.hidden_size // heads
    window = getattr(settings, "sliding_window", None) or None  # 0: a family that could have one, and has not
    why = varlen.refusal(device, dtype, heads, kv_heads, dim, window)
    return f"segment by segment ({why})" if why else "varlen, all segments at once"
