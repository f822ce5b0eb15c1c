"""From a model folder to a module that can be trained: load, adapt, know what it can do."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

from truetune.engines import adapter
from truetune.engines.base import EngineSpec, Method
from truetune.engines.torch import attention, lora
from truetune.errors import InputError, UsageError

PACKS = {
    "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "llama", "mistral", "olmo2", "phi", "phi3", "qwen2", "qwen3",
    "smollm3",
}  # fmt: skip
"""Model types for which the contract suite shows packed = one by one; the others train on padded micro-batches."""


def packs(model_type: str) -> bool:
    return model_type in PACKS


def load(spec: EngineSpec) -> nn.Module:
    """The causal model of a folder, weights from safetensors, on its device, nothing trained yet."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    config = AutoConfig.from_pretrained(spec.model, local_files_only=True, trust_remote_code=False)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            spec.model,
            config=config,
            dtype=torch.float32 if spec.method.type == "full" else getattr(torch, spec.dtype),
            attn_implementation=attention.NAME if packs(config.model_type) else None,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
        )
    except (ValueError, KeyError, RuntimeError, OSError, SafetensorError) as error:
        raise InputError(
            f"transformers cannot load this model: {first_line(error)}",
            code="model.unloadable",
            where=str(spec.model),
            hint="Check that config.json belongs to the weights beside it and names a causal language model.",
        ) from error
    model.config.use_cache = False
    return model.to(spec.device)


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def adapt(model: nn.Module, spec: EngineSpec) -> list[str]:
    """Make the method's parameters trainable; the names of the adapted layers (none for full fine-tuning)."""
    if spec.method.type == "full":
        model.requires_grad_(True)
        return []
    names = lora.attach(model, spec.method, spec.seed)
    if spec.adapter:
        load_adapter(model, spec.adapter, spec.method)
    return names


def load_adapter(model: nn.Module, folder: Path, method: Method) -> None:
    """Start from an adapter on disk. Refused unless it maps one to one onto the layers."""
    body = adapter.read_config(folder)
    wanted = (method.r, float(method.alpha))
    stands = (body["r"], float(body["lora_alpha"]))
    if wanted != stands:
        raise UsageError(
            f"the adapter has r={stands[0]}, alpha={stands[1]:g}, but r={wanted[0]}, alpha={wanted[1]:g} is set",
            code="adapter.other_shape",
            where="model.adapter",
            hint=f"Set method.r to {stands[0]} and method.alpha to {stands[1]:g}.",
        )
    tensors = load_file(folder / adapter.WEIGHTS)
    put_adapter(model, tensors, str(folder / adapter.WEIGHTS))


def put_adapter(model: nn.Module, tensors: dict[str, torch.Tensor], where: str) -> None:
    """Copy PEFT-named tensors into the LoRA layers; every tensor must find its place and every place its tensor."""
    places = adapter_parameters(model)
    missing, extra = sorted(places.keys() - tensors.keys()), sorted(tensors.keys() - places.keys())
    wrong = [name for name in places.keys() & tensors.keys() if places[name].shape != tensors[name].shape]
    if missing or extra or wrong:
        example = (missing or extra or wrong)[0]
        raise InputError(
            f"the adapter does not map onto this model ({len(missing)} tensors missing, {len(extra)} unknown, "
            f"{len(wrong)} of another shape; for example {example})",
            code="adapter.mismatch",
            where=where,
            hint="Use the base model and the target modules that the adapter was trained with.",
        )
    for name, parameter in places.items():
        parameter.data.copy_(tensors[name])


def adapter_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """PEFT's tensor names -> parameters."""
    return {
        adapter.key(name, matrix): getattr(layer, f"lora_{matrix}")
        for name, layer in lora.layers(model)
        for matrix in "AB"
    }


def target_names(model: nn.Module, targets: list[str]) -> list[str]:
    """The shortest way to name the targets for PEFT: suffixes where they select exactly these layers."""
    suffixes = sorted({name.rpartition(".")[2] for name in targets})
    everything = [n for n, m in model.named_modules() if isinstance(m, lora.LoRALinear | nn.Linear | lora.Conv1D)]
    outer = [name for name in everything if not name.endswith(".base")]
    chosen = [name for name in outer if any(lora.hit(name, suffix) for suffix in suffixes)]
    return suffixes if sorted(chosen) == sorted(targets) else list(targets)


def peft_config(model: nn.Module, spec: EngineSpec, targets: list[str]) -> dict[str, object]:
    """PEFT's configuration for the trained adapter."""
    transposed = any(layer.transposed for _, layer in lora.layers(model))
    names = target_names(model, targets)
    base = spec.base or str(spec.model)
    return adapter.config(spec.method, names, base=base, revision=spec.revision, transposed=transposed)
