"""Prompt learning by PEFT: the model stays as it is, and virtual tokens before every text are trained.

A checkpoint holds what is trained, the network that makes the virtual tokens included. The adapter beside it, in PEFT's
layout, holds what the network has made: all that is needed to answer.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model
from torch import nn

from truetune.engines import adapter
from truetune.engines.base import EngineSpec, Part, write
from truetune.engines.prompts import ENCODED, LAYERED, PROMPTS
from truetune.engines.torch import files, fronts, methods
from truetune.errors import UsageError

NAME = "default"
"""PEFT's name of an adapter."""


class Prompt:
    file = "prompt_encoder.safetensors"
    undoes = True

    def __init__(self, model: nn.Module, spec: EngineSpec) -> None:
        if spec.gradient_checkpointing and spec.method.type in LAYERED:
            raise ValueError("gradient checkpointing would drop the keys and values that are trained")
        self.base, self.spec = fronts.plainly(model), spec
        self.virtual = spec.method.virtual_tokens
        self.layers: list[str] = []
        self.model = wrapped(model, spec)
        self.parameters: dict[str, nn.Parameter] = dict(self.model.prompt_encoder[NAME].named_parameters())
        if spec.adapter:
            self.begin(spec.adapter)

    def begin(self, folder: Path) -> None:
        """Start from an adapter on disk: from its network where it has one, which only checkpoints do; a method
        without a network starts from what any network has made."""
        kind = self.spec.method.type
        adapter.refuse_other_prompt(adapter.read_config(folder, PROMPTS.values()), self.spec.method)
        if kind in ENCODED:
            refuse_no_network(folder, self.file, kind)
            path = folder / self.file
            tensors = files.load(path, "adapter.damaged")
        else:
            path = folder / adapter.WEIGHTS
            made = files.load(path, "adapter.damaged")
            tensors = {name.replace(fronts.TENSOR, "embedding.weight"): tensor for name, tensor in made.items()}
        shapes = ({name: value.shape for name, value in part.items()} for part in (self.parameters, tensors))
        adapter.refuse_mismatch(*shapes, str(path))
        self.put(tensors)

    def off(self) -> AbstractContextManager[None]:
        return self.model.disable_adapter()

    def front(self) -> fronts.Front:
        """The virtual tokens as they stand, ready for a cache."""
        with torch.no_grad():
            made = self.model.get_prompt(1)
            if self.spec.method.type in LAYERED:
                return fronts.of_cache(made)
            return fronts.of_embeddings(made[0].to(next(self.base.parameters()).dtype), self.base)

    def save(self, folder: Path) -> None:
        files.write(folder / self.file, self.parameters)
        self.export(folder)

    def put(self, tensors: Mapping[str, torch.Tensor]) -> None:
        methods.put(self.parameters, tensors)

    def snapshot(self) -> tuple[Part, ...]:
        made = files.held({fronts.TENSOR: self.model.get_prompt_embedding_to_save(NAME)})
        return files.part(self.file, files.held(self.parameters)), *self.parts(made)

    def export(self, folder: Path) -> None:
        write(self.parts({fronts.TENSOR: self.model.get_prompt_embedding_to_save(NAME)}), folder)

    def parts(self, made: Mapping[str, torch.Tensor]) -> tuple[Part, ...]:
        """What writes the adapter with these tensors."""
        return files.part(adapter.WEIGHTS, made), adapter.config_part(config(self.model.peft_config[NAME], self.spec))


def wrapped(model: nn.Module, spec: EngineSpec) -> nn.Module:
    """The model inside PEFT's, its virtual tokens drawn from the seed alone."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(spec.seed)
        return get_peft_model(model, settings(model, spec))


def settings(model: nn.Module, spec: EngineSpec) -> PeftConfig:
    """PEFT's configuration of the method."""
    method, sizes = spec.method, model.config
    common: dict[str, Any] = {"task_type": "CAUSAL_LM", "num_virtual_tokens": method.virtual_tokens}
    hidden = method.encoder_hidden or sizes.hidden_size
    if method.type in LAYERED:
        count, width = fronts.heads(sizes)
        common |= {"num_layers": sizes.num_hidden_layers, "num_attention_heads": count, "token_dim": count * width}
        projected = method.type == "prefix"
        return PrefixTuningConfig(**common, prefix_projection=projected, encoder_hidden_size=hidden)
    if method.type == "ptuning":
        return PromptEncoderConfig(**common, encoder_hidden_size=hidden)
    return PromptTuningConfig(
        **common, prompt_tuning_init="SAMPLE_VOCAB"
    )  # words are better than noise, says the paper


def config(found: PeftConfig, spec: EngineSpec) -> dict[str, Any]:
    """A configuration of PEFT's as its file holds it."""
    told = {"base_model_name_or_path": spec.base or str(spec.model), "revision": spec.revision, "inference_mode": True}
    body = found.to_dict() | told
    return {key: sorted(value) if isinstance(value, set) else value for key, value in body.items()}


def refuse_no_network(folder: Path, file: str, kind: str) -> None:
    if not (folder / file).is_file():
        raise UsageError(
            f"the adapter holds the virtual tokens, and not the network of {kind} that made them",
            code="adapter.no_encoder",
            where="model.adapter",
            hint=f"Write `method: {ENCODED[kind]}`, which trains the virtual tokens themselves, or name a checkpoint, "
            "which holds the network too: runs/<id>/checkpoints/step-….",
        )
