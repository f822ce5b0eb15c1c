"""IA³ (Liu et al. 2022, arXiv 2205.05638) by PEFT: factors of keys, values and of what enters the last map of each
feed-forward part. They begin as 1, so the start is the model itself, and packing goes on as without them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from peft import IA3Config, get_peft_model, get_peft_model_state_dict
from peft.utils import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as KNOWN
from torch import nn

from truetune.engines import adapter
from truetune.engines.base import EngineSpec, Method, Part, write
from truetune.engines.torch import files, lora, methods
from truetune.engines.torch.methods import prompt
from truetune.errors import UsageError

USUAL = (("k_proj", "v_proj", "down_proj"), ("qkv_proj", "down_proj"), ("c_attn", "mlp.c_proj"))
"""Targets of models that PEFT has none for, where they have layers of these names."""
INNER = (".mlp.", ".feed_forward.", ".ffn.", ".block_sparse_moe.", ".fc2", ".fc_out")
"""In the name of a feed-forward layer."""


class Ia3:
    file = adapter.WEIGHTS
    undoes = True
    virtual = 0

    def __init__(self, model: nn.Module, spec: EngineSpec) -> None:
        self.model, self.spec = model, spec
        self.layers = targets(model, spec.method)
        every = lora.linear_names(model)
        self.peft = wrapped(model, adapter.shortest(every, self.layers), self.layers)
        self.parameters: dict[str, nn.Parameter] = tensors(self.peft)
        if spec.adapter:
            self.begin(spec.adapter)

    def begin(self, folder: Path) -> None:
        """Start from an adapter on disk. Refused unless it maps one to one onto the layers."""
        adapter.read_config(folder, ("IA3",))
        path = folder / adapter.WEIGHTS
        found = files.load(path, "adapter.damaged")
        shapes = ({name: value.shape for name, value in part.items()} for part in (self.parameters, found))
        adapter.refuse_mismatch(*shapes, str(path))
        self.put(found)

    def put(self, tensors: Mapping[str, torch.Tensor]) -> None:
        methods.put(self.parameters, tensors)

    def off(self) -> AbstractContextManager[None]:
        return self.peft.disable_adapter()

    def save(self, folder: Path) -> None:
        self.export(folder)

    def snapshot(self) -> tuple[Part, ...]:
        return self.parts(files.held(self.parameters))

    def export(self, folder: Path) -> None:
        write(self.parts(self.parameters), folder)

    def parts(self, tensors: Mapping[str, torch.Tensor]) -> tuple[Part, ...]:
        """What writes the adapter with these tensors."""
        body = prompt.config(self.peft.peft_config[prompt.NAME], self.spec)
        return files.part(adapter.WEIGHTS, tensors), adapter.config_part(body)


def targets(model: nn.Module, method: Method) -> list[str]:
    """Names of the layers that get factors. Raises UsageError `method.no_target`."""
    every = lora.linear_names(model)
    if method.target_modules != "auto":
        return adapter.select(every, method.target_modules)
    choices: list[Sequence[str]] = [KNOWN.get(model.config.model_type, ()), *USUAL]
    for choice in choices:
        if choice and all(any(adapter.hit(name, suffix) for name in every) for suffix in choice):
            return adapter.select(every, choice)
    kinds = sorted({name.rpartition(".")[2] for name in every})
    raise UsageError(
        f"which layers of {model.config.model_type} models ia3 changes is not known",
        code="method.no_target",
        where="method.target_modules",
        hint=f"Name those of keys, values and the feed-forward part; this model has {', '.join(kinds)}.",
    )


def wrapped(model: nn.Module, short: list[str], names: list[str]) -> nn.Module:
    """PEFT's factors inside the model itself."""
    inner = [name for name in names if any(part in name for part in INNER)]
    feeding = sorted({name for name in short if any(adapter.hit(one, name) for one in inner)})
    transposed = isinstance(model.get_submodule(names[0]), lora.Conv1D)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = IA3Config(
            task_type="CAUSAL_LM", target_modules=short, feedforward_modules=feeding, fan_in_fan_out=transposed
        )
        return get_peft_model(model, made)


def tensors(peft: nn.Module) -> dict[str, Any]:
    """What is trained, by PEFT's names in a file."""
    names = get_peft_model_state_dict(peft, save_embedding_layers=False)
    every = {name.replace(f".{prompt.NAME}", ""): parameter for name, parameter in peft.named_parameters()}
    return {name: every[name] for name in names}
