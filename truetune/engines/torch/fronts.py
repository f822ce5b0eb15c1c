"""What stands in front of a text without being written: keys and values of virtual tokens, for every layer.

All prompt methods end here when they are read: a prefix is keys and values already, and embeddings become some by one
forward, since no virtual token looks at what comes after it. A cache that begins with them is all that decoding needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from transformers import Cache, DynamicCache

from truetune.engines import adapter, prompts
from truetune.engines.torch import attention, slots

Front = tuple[tuple[torch.Tensor, torch.Tensor], ...]
"""Per layer the keys and the values, [K, V, D] each: V virtual tokens, K heads."""
TENSOR = "prompt_embeddings"
"""PEFT's name of what a prompt method has learned: [V, layers · 2 · K · D] for a prefix, [V, H] for embeddings."""


def length(front: Front | None) -> int:
    """Virtual tokens of a front; 0 where there is none."""
    return front[0][0].shape[1] if front else 0


def cache(model: nn.Module, front: Front | None, rows: int = 1) -> Cache:
    """A fresh cache of transformers' for so many rows, which begins with the front."""
    fresh = DynamicCache(config=model.config)
    for layer, pair in enumerate(front or ()):
        keys, values = (part[None].expand(rows, -1, -1, -1) for part in pair)
        fresh.update(keys, values, layer)
    return fresh


def read(folder: Path, body: dict, tensors: dict[str, torch.Tensor], model: nn.Module) -> Front:
    """The front that an adapter of PEFT's makes with this model. Raises InputError as `adapter.refuse_mismatch`."""
    prompts.refuse_model(body["peft_type"].lower(), model.config.model_type)
    path, count = folder / adapter.WEIGHTS, body["num_virtual_tokens"]
    layered = body["peft_type"] == "PREFIX_TUNING"
    width = layered_width(model.config) if layered else model.config.hidden_size
    adapter.refuse_mismatch(
        {TENSOR: (count, width)}, {name: tensor.shape for name, tensor in tensors.items()}, str(path)
    )
    weight = next(model.parameters())
    found = tensors[TENSOR].to(weight.device, weight.dtype)
    return of_keys(found, model) if layered else of_embeddings(found, model)


def layered_width(config) -> int:  # type: ignore[no-untyped-def]
    """Numbers that one virtual token has over all layers."""
    return config.num_hidden_layers * 2 * heads(config)[0] * heads(config)[1]


def heads(config) -> tuple[int, int]:  # type: ignore[no-untyped-def]
    """(heads of keys and values, their width). Falcon and GPT-BigCode say it by flags of their own."""
    whole = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    count = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    if config.model_type == "falcon":
        count = config.num_kv_heads if config.new_decoder_architecture or not config.multi_query else 1
    return count, whole


def of_keys(found: torch.Tensor, model: nn.Module) -> Front:
    """[V, layers · 2 · K · D] as PEFT lays it out: per layer the keys, then the values."""
    count, width = heads(model.config)
    parts = found.view(len(found), model.config.num_hidden_layers, 2, count, width).permute(1, 2, 3, 0, 4)
    return tuple((layer[0].contiguous(), layer[1].contiguous()) for layer in parts)


def of_embeddings(found: torch.Tensor, model: nn.Module) -> Front:
    """What the layers make of the embeddings [V, H]."""
    made = DynamicCache()
    with torch.no_grad(), attending(model):
        model(inputs_embeds=found[None], past_key_values=made, use_cache=True)
    return of_cache(made)


def of_cache(made: Cache) -> Front:
    return tuple((layer.keys[0].detach(), layer.values[0].detach()) for layer in made.layers)


@contextmanager
def attending(model: nn.Module) -> Iterator[None]:
    """Lend a model that is in slots an attention that makes a cache."""
    before = model.config._attn_implementation
    plainly(model)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def plainly(model: nn.Module) -> nn.Module:
    """A model that packs gets an attention of transformers' in place of ours: PyTorch's, or the plain one where the
    model's softcap would be lost in it."""
    if model.config._attn_implementation in (attention.NAME, slots.NAME):
        capped = getattr(model.config, "attn_logit_softcapping", None) is not None
        model.set_attn_implementation("eager" if capped else "sdpa")
    return model
