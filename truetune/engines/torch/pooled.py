"""Models that give scores instead of words: one for each class of a text, or a single one for an answer.

They are transformers' own classes for sequence classification, so anyone loads what is trained here. A model that
writes is scored at a text's last token; an encoder has its own way (BERT's at [CLS]). What the base lacks of the head
is drawn from the seed, the same in every run, and the head is trained whole, in float32, whatever the method.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedConfig

from truetune.data import objectives
from truetune.engines import heads
from truetune.engines.base import EngineSpec
from truetune.engines.torch.batch import Batch
from truetune.engines.torch.config import part
from truetune.engines.torch.forward import Forward

MAPPING = AutoModelForSequenceClassification._model_mapping
HEADS = ("score", "classifier", r"(.+\.)?pooler", "head", "pre_classifier")
"""Patterns of the modules of heads, whatever the model: they are never packed into fewer bits."""


def of_spec(spec: EngineSpec) -> Head | None:
    """The head of a training whose model gives scores instead of words; None for others."""
    return Head(spec) if objectives.of(spec.objective.type).scores else None


class Head:
    """What a model is loaded with so that it gives scores, and what of it is drawn from the seed."""

    def __init__(self, spec: EngineSpec) -> None:
        self.spec, self.objective = spec, spec.objective
        self.known = False
        """Whether the base has a head for just these classes."""
        self.fresh: set[str] = set()
        """Parameters that the base lacks."""

    def kind(self, settings: PreTrainedConfig) -> tuple[Any, PreTrainedConfig]:
        """transformers' class for this, and its configuration with the classes in it. Raises ValueError."""
        if type(settings) not in MAPPING:
            raise ValueError(f"{settings.model_type} has no head for classes or scores in transformers")
        kind, settings = part(MAPPING, settings)
        self.name(settings)
        return kind, settings

    def name(self, settings: PreTrainedConfig) -> None:
        """Write the classes where others look for them."""
        self.known = heads.known(self.objective, settings.id2label)
        for name, value in heads.settings(self.objective).items():
            setattr(settings, name, value)
        settings.pad_token_id = heads.padding(settings.pad_token_id, settings.eos_token_id)

    def kept(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The base's weights, without a head for other classes."""
        return {name: tensor for name, tensor in tensors.items() if self.known or not name.startswith(heads.LAST)}

    def begin(self, model: nn.Module, loaded: dict[str, Any]) -> dict[str, Any]:
        """Draw what the base lacks of the head; returns what transformers said of the weights, without that."""
        inside = model.base_model_prefix + "."
        missing = set(loaded["missing_keys"])
        self.fresh = {name for name in missing if not name.startswith(inside) or ".pooler." in name}
        std = float(getattr(model.config, "initializer_range", 0.02))
        for name in sorted(self.fresh):
            parameter = model.get_parameter(name)
            parameter.data.copy_(torch.from_numpy(heads.start(name, tuple(parameter.shape), std, self.spec.seed)))
        extra = {name for name in loaded["unexpected_keys"] if not heads.OTHERS.search(name)}
        return {**loaded, "missing_keys": missing - self.fresh, "unexpected_keys": extra}

    def trained(self, model: nn.Module) -> EngineSpec:
        """The training with the head among the modules that are trained whole."""
        if self.spec.method.type == "full":
            return self.spec
        outside = [
            name
            for name, child in model.named_children()
            if child is not model.base_model and any(True for _ in child.parameters())
        ]
        inside = sorted({name.rpartition(".pooler.")[0] + ".pooler" for name in self.fresh if ".pooler." in name})
        for name in (*outside, *inside):
            model.get_submodule(name).register_forward_pre_hook(in_its_type)
        whole = tuple(dict.fromkeys((*self.spec.method.modules_to_save, *outside, *inside)))
        return replace(self.spec, method=replace(self.spec.method, modules_to_save=whole))


def in_its_type(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    """The head computes in float32, whatever the base does."""
    wanted = next(module.parameters()).dtype
    return tuple(one.to(wanted) if isinstance(one, torch.Tensor) and one.is_floating_point() else one for one in given)


def of(forward: Forward, batch: Batch) -> torch.Tensor:
    """The scores of each text, float32 [texts, classes]."""
    model = forward.model
    if not hasattr(model, "score"):
        return encoded(model, batch)
    inputs: dict[str, Any] = {"input_ids": batch.ids, "position_ids": batch.positions, "use_cache": False}
    if forward.packs:
        hidden = model.base_model(**inputs, segments=batch.segments).last_hidden_state[0]
        last = torch.tensor([segment[1] - 1 for segment in batch.segments], device=batch.ids.device)
        return model.score(hidden.index_select(0, last)).float()
    hidden = model.base_model(**inputs, attention_mask=batch.mask).last_hidden_state
    rows = torch.arange(batch.texts, device=batch.ids.device)
    return model.score(hidden[rows, batch.mask.sum(1) - 1]).float()


def encoded(model: nn.Module, batch: Batch) -> torch.Tensor:
    """An encoder's, by its own forward. It counts positions itself, some by looking for its padding."""
    ids = batch.ids.masked_fill(batch.mask == 0, model.config.pad_token_id or 0)
    more = {"token_type_ids": kinds(batch)} if getattr(model.config, "type_vocab_size", 0) > 1 else {}
    return model(input_ids=ids, attention_mask=batch.mask, **more).logits.float()


def kinds(batch: Batch) -> torch.Tensor:
    """int64 [R, L]: 1 where the second text of a pair stands."""
    starts = [example.second or example.tokens for example in batch.examples]
    begins = torch.tensor(starts, device=batch.ids.device)[:, None]
    places = torch.arange(batch.ids.shape[1], device=batch.ids.device)
    return ((places >= begins) & (batch.mask == 1)).long()
