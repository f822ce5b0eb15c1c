"""Models that give scores instead of words, at a text's last token: mlx_lm's layers under the head that transformers'
classes for sequence classification have. See `truetune.engines.heads`, and torch's `pooled` for the encoders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from operator import index
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from truetune.data import objectives
from truetune.engines import heads
from truetune.engines.base import EngineSpec
from truetune.engines.mlx import family
from truetune.engines.mlx.adamw import Arrays
from truetune.engines.mlx.batch import Batch
from truetune.engines.mlx.family import Layout
from truetune.models import facts

NAME = "score"
"""Of the head in the model."""
WEIGHT = f"{NAME}.weight"
KINDS = {
    "llama": ("Llama", 2),
    "mistral": ("Mistral", 2),
    "qwen2": ("Qwen2", None),
    "qwen3": ("Qwen3", None),
    "gemma2": ("Gemma2", 1),
    "gemma3_text": ("Gemma3Text", 1),
    "phi3": ("Phi3", 32000),
}
"""Model type -> how transformers' class is called, and the token that ends texts where config.json says none."""


class Pool:
    """What a model is loaded with so that it gives scores instead of words."""

    def __init__(self, spec: EngineSpec) -> None:
        self.spec = spec
        self.known = False
        """Whether the base has a head for just these classes."""
        self.std = 0.02
        """Of a fresh head."""

    @classmethod
    def of(cls, spec: EngineSpec) -> Pool | None:
        """None for a training whose model writes."""
        return cls(spec) if objectives.of(spec.objective.type).scores else None

    def put(self, model: nn.Module, layout: Layout) -> Layout:
        """Give a model the head for scores in the place of that for words. Returns the layout with a token for padding:
        as in transformers, nothing is learned from its being read. Raises TypeError, ValueError, LookupError for
        settings that say nothing."""
        settings, classes = layout.settings, len(heads.names(self.spec.objective))
        self.std = float(settings.get("initializer_range", self.std))
        self.known = heads.known(self.spec.objective, labels(settings))
        model.pop("lm_head", None)
        model[NAME] = nn.Linear(settings["hidden_size"], classes, bias=False)
        return replace(layout, settings={**settings, "pad_token_id": padding(settings)})

    def kept(self, found: Arrays, model: nn.Module) -> Arrays:
        """The base's weights for this model, without a head for anything else."""
        self.known = self.known and WEIGHT in found
        head = found[WEIGHT].astype(mx.float32) if self.known else model[NAME].weight
        return {name: value for name, value in found.items() if not heads.OTHERS.search(name)} | {WEIGHT: head}

    def begin(self, model: nn.Module) -> None:
        """Draw the head, where the base lacks it."""
        if not self.known:
            shape = tuple(model[NAME].weight.shape)
            model[NAME].weight = mx.array(heads.start(WEIGHT, shape, self.std, self.spec.seed))

    def trained(self) -> EngineSpec:
        """The training with the head among the modules that are trained whole."""
        method = self.spec.method
        if method.type == "full":
            return self.spec
        whole = tuple(dict.fromkeys((*method.modules_to_save, NAME)))
        return replace(self.spec, method=replace(method, modules_to_save=whole))

    def write_config(self, folder: Path) -> None:
        """The base's config.json with the names of the classes, for whoever loads what was trained."""
        config = facts.config(self.spec.model)
        config.pop("torch_dtype", None)
        pad = {} if (token := padding(family.complete(config))) is None else {"pad_token_id": token}
        kind = f"{KINDS[config['model_type']][0]}ForSequenceClassification"
        dtype = "float32" if self.spec.method.type == "full" else self.spec.dtype
        body = config | heads.settings(self.spec.objective) | pad | {"architectures": [kind], "dtype": dtype}
        (folder / "config.json").write_text(json.dumps(body, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def padding(settings: Mapping[str, Any]) -> int | None:
    end = settings.get("eos_token_id", KINDS[settings["model_type"]][1])
    token = heads.padding(settings.get("pad_token_id"), end)
    return None if token is None else index(token)


def labels(settings: Mapping[str, Any]) -> dict[int, str]:
    """Number -> class, by a base's config.json; transformers names what has no names."""
    written = settings.get("id2label")
    if written is not None:
        return {int(number): str(name) for number, name in dict(written).items()}
    return {number: f"LABEL_{number}" for number in range(int(settings.get("num_labels") or 2))}


def of(hidden: mx.array, weight: mx.array, batch: Batch) -> mx.array:
    """The scores of each text, float32 [texts, classes], from hidden states [texts, L, H]. The head computes in
    float32, whatever the base does."""
    ends = [part.stop - part.start - 1 for example in batch.examples for part in example.texts]
    last = hidden[mx.arange(len(ends)), mx.array(np.array(ends, np.int32))]
    return last.astype(mx.float32) @ weight.T.astype(mx.float32)
