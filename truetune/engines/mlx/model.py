"""From a model folder to a module of mlx_lm with exactly the folder's weights."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models import gemma2, gemma3_text, llama, phi3, qwen2, qwen3

from truetune.engines.mlx import family, files
from truetune.engines.mlx.family import Layout
from truetune.engines.mlx.pooled import Pool
from truetune.errors import InputError
from truetune.models import source, weights

MODULES = {"gemma2": gemma2, "gemma3_text": gemma3_text, "llama": llama, "phi3": phi3, "qwen2": qwen2, "qwen3": qwen3}
HEADS = ("lm_head", "score")
SPARE = re.compile(r"(^|\.)mtp(\.|_)|rotary_emb\.inv_freq$")
"""Tensors that some checkpoints carry and their models no longer read."""


def load(folder: Path, dtype: str, pool: Pool | None = None) -> tuple[nn.Module, Layout]:
    """The causal model of a folder, or with a `pool` one that gives scores, and its layout. Nothing in the folder is
    run.

    Raises InputError `model.unloadable`, `model.custom_code`, and `model.weights` where the weights are not exactly
    those of the config.
    """
    source.check(folder)
    lacking = family.lacks(folder)
    if lacking:
        raise unloadable(f"it lacks {lacking}", folder)
    layout, most = family.read(folder), len(weights.tensors(folder))
    if layout.settings["num_hidden_layers"] > most:
        raise unloadable(f"config.json says more layers than the weights have tensors ({most:,})", folder)
    module = MODULES[layout.family.module]
    try:
        model = module.Model(module.ModelArgs.from_dict(dict(layout.settings)))
        layout = pool.put(model, layout) if pool else layout
    except (TypeError, ValueError, LookupError, ArithmeticError, RuntimeError) as error:
        raise unloadable(str(error), folder) from error
    untie(model, layout)
    found = tensors(folder, getattr(mx, dtype), tied=layout.tied)
    put(model, pool.kept(found, model) if pool else found, folder)
    if pool:
        pool.begin(model)
    mx.eval(model.parameters())
    return model, layout


def unloadable(reason: str, folder: Path) -> InputError:
    return InputError(
        f"MLX cannot load this model: {reason}",
        code="model.unloadable",
        where=str(folder),
        hint="Set resources.engine to torch, which knows more models, or check config.json.",
    )


def untie(model: nn.Module, layout: Layout) -> None:
    """Gemma-3 of mlx_lm decides by its weights whether its head is its embedding; here the config says so."""
    if layout.family.module == "gemma3_text" and layout.tied:
        model.tie_word_embeddings = True
        model.pop("lm_head", None)


def part(model: nn.Module, layout: Layout) -> Layout:
    """Give a head that is tied to the embedding a layer of its own, with the same numbers in the same memory."""
    model.lm_head = nn.Linear(1, 1, bias=False)
    model.lm_head.weight = model.model.embed_tokens.weight
    return replace(layout, settings={**layout.settings, "tie_word_embeddings": False})


def tensors(folder: Path, dtype: mx.Dtype, *, tied: bool) -> dict[str, mx.array]:
    """Every weight of the folder by transformers' name; a tied head that is stored as well goes by the embedding."""
    found: dict[str, mx.array] = {}
    for path in weights.shards(folder):
        found |= read(path, dtype, tied=tied)
    return found


def read(path: Path, dtype: mx.Dtype, *, tied: bool) -> dict[str, mx.array]:
    """The weights of one file."""
    found = files.load(path, "model.damaged").items()
    spare = {"lm_head.weight"} if tied else set()
    return {name: value.astype(dtype) for name, value in found if name not in spare and not SPARE.search(name)}


def put(model: nn.Module, found: dict[str, mx.array], where: Path) -> None:
    """Set all weights, name by name: none missing, none left over, none of another shape."""
    places = dict(tree_flatten(model.parameters()))
    wrong = [
        f"{name} is {tuple(found[name].shape)}, not {tuple(places[name].shape)}"
        for name in sorted(places.keys() & found.keys())
        if places[name].shape != found[name].shape
    ]
    missing = [f"{name} is missing" for name in sorted(places.keys() - found.keys())]
    extra = [f"{name} has no place" for name in sorted(found.keys() - places.keys())]
    every = [*wrong, *missing, *extra]
    if every:
        raise InputError(
            f"the weights are not those of config.json: {every[0]}"
            + (f" (and {len(every) - 1} more such tensors)" if len(every) > 1 else ""),
            code="model.weights",
            where=str(where),
            hint="Copy config.json and the weights from the same place again.",
        )
    model.update(tree_unflatten(list(found.items())))


def linears(model: nn.Module) -> dict[str, nn.Module]:
    """Every linear layer but the head, by name, in the order of the layers."""
    found = {
        name.removesuffix(".base"): module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name not in HEADS
    }
    return {name: found[name] for name in sorted(found, key=natural)}


def natural(name: str) -> list[tuple[int, str]]:
    """layers.2 comes before layers.10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def shapes(tensors: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tensors.items()}
