"""From a model folder to a module: load it, know what it can do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig
from transformers.utils import logging

from truetune.engines.base import EngineSpec
from truetune.engines.packing import PACKS
from truetune.engines.torch import attention, config, files, pooled, quantised
from truetune.errors import InputError
from truetune.models import packed, weights

SPARE = re.compile(r"(^|\.)mtp(\.|_)|rotary_emb\.inv_freq$|\.attn\.(masked_)?bias$")
"""Tensors that some checkpoints carry and their models no longer read: prediction heads ahead, old buffers."""


def packs(model_type: str) -> bool:
    kind = None if model_type in PACKS else config.brought(model_type)
    return model_type in PACKS or (kind is not None and kind.packs)


def load(spec: EngineSpec, head: pooled.Head | None = None) -> nn.Module:
    """The causal model of a folder, or with a `head` one that gives scores; weights from safetensors, on its device,
    nothing trained yet.

    Raises InputError as `config.read`, `model.unloadable`, and `model.weights` where the weights are not exactly those
    of the config.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        settings = config.read(spec.model)
        kind, settings = head.kind(settings) if head else causal(settings)
        dtype = torch.float32 if spec.method.type == "full" else getattr(torch, spec.dtype)
        packing = quantised.loading(
            spec.method.bits, getattr(settings, packed.KEY, None), dtype, spec.device, pooled.HEADS if head else ()
        )
        model, loaded = kind.from_pretrained(
            None,  # with a folder it would look there for more than weights
            config=settings,
            state_dict=head.kept(tensors(spec.model)) if head else tensors(spec.model),
            dtype=dtype,
            attn_implementation=attention.NAME if packs(settings.model_type) else None,
            local_files_only=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # they are told apart below, by name
            output_loading_info=True,
            **packing,
        )
    except InputError:
        raise
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a config can be wrong in any way that transformers may meet
        raise unloadable(error, spec.model) from error
    refuse_other_weights(head.begin(model, loaded) if head else loaded, spec.model)
    model.config.use_cache = False
    return quantised.replace(model, dtype) if packing else model.to(spec.device)


def causal(settings: PreTrainedConfig) -> tuple[Any, PreTrainedConfig]:
    """transformers' causal model for a configuration, and the part of it that this model takes. Raises ValueError."""
    mapping = AutoModelForCausalLM._model_mapping
    if type(settings) not in mapping:
        raise ValueError(f"{settings.model_type} is no causal language model of transformers")
    return config.part(mapping, settings)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The weights by name, mapped from their files."""
    found: dict[str, torch.Tensor] = {}
    for path in weights.shards(folder):
        found |= files.load(path, "model.damaged")
    return found


def unloadable(error: Exception, folder: Path) -> InputError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return InputError(
        f"transformers cannot load this model: {lines[-1] if 'Strict' in type(error).__name__ else lines[0]}"
        if lines
        else f"transformers cannot load this model: {type(error).__name__}",
        code="model.unloadable",
        where=str(folder),
        hint="Check that config.json belongs to the weights beside it and names a causal language model.",
    )


def refuse_other_weights(loaded: dict[str, Any], folder: Path) -> None:
    """transformers fills what is missing with random numbers and drops what is left over; here that is an error."""
    wrong = [f"{name} is {tuple(stands)}, not {tuple(wanted)}" for name, stands, wanted in loaded["mismatched_keys"]]
    missing = [f"{name} is missing" for name in sorted(loaded["missing_keys"])]
    extra = [f"{name} has no place" for name in sorted(loaded["unexpected_keys"]) if not SPARE.search(name)]
    found = [*wrong, *missing, *extra]
    if found:
        raise InputError(
            f"the weights are not those of config.json: {found[0]}"
            + (f" (and {len(found) - 1} more such tensors)" if len(found) > 1 else ""),
            code="model.weights",
            where=str(folder),
            hint="Copy config.json and the weights from the same place again.",
        )
