"""Adapters to and from mlx_lm's own layout, and what mlx_lm itself computes with them. On disk TrueTune keeps PEFT's
layout; the two ways undo each other.

mlx_lm                         PEFT
adapters.safetensors           adapter_model.safetensors
  <module>.lora_a [in, r]        base_model.model.<module>.lora_A.weight [r, in]
  <module>.lora_b [r, out]       base_model.model.<module>.lora_B.weight [out, r]
adapter_config.json            adapter_config.json
  scale                          lora_alpha / r
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.tuner.utils import load_adapters
from mlx_lm.utils import load_model
from numpy.typing import NDArray

from truetune.engines import adapter
from truetune.engines.base import Method
from truetune.engines.mlx import device, family, files, model, state
from truetune.errors import InputError
from truetune.models import gate, source

WEIGHTS = "adapters.safetensors"
HINT = "Only plain LoRA adapters on linear layers can be exchanged."


def to_mlx_lm(source: Path, target: Path) -> None:
    """Write a PEFT adapter into the existing folder `target` as `mlx_lm.load(…, adapter_path=target)` reads it.

    PEFT's configuration goes along under the key `peft`, which mlx_lm does not read.
    Raises InputError as `adapter.read_config`, and `adapter.damaged`.
    """
    body = adapter.read_config(source, plain=True)
    found = files.load(source / adapter.WEIGHTS, "adapter.damaged")
    modules = sorted({name.removeprefix(adapter.PREFIX).rpartition(".lora_")[0] for name in found})
    places = {adapter.key(module, matrix) for module in modules for matrix in "AB"}
    adapter.refuse_mismatch(dict.fromkeys(places, ()), dict.fromkeys(found, ()), str(source / adapter.WEIGHTS))
    state.write(
        target / WEIGHTS,
        {
            f"{module}.lora_{matrix.lower()}": found[adapter.key(module, matrix)].T
            for module in modules
            for matrix in "AB"
        },
    )
    settings = {
        "rank": body["r"],
        "scale": body["lora_alpha"] / body["r"],
        "dropout": body.get("lora_dropout", 0.0),
        # Full names: mlx_lm matches them over the whole model, so any choice of layers can be said.
        "keys": modules,
    }
    layers = len({module.split(".layers.")[-1].split(".")[0] for module in modules})
    config = {"fine_tune_type": "lora", "num_layers": layers, "lora_parameters": settings, "peft": body}
    adapter.write_config(target, config)


def from_mlx_lm(source: Path, target: Path, *, base: str = "") -> None:
    """Write an adapter of mlx_lm into the existing folder `target` in PEFT's layout. `base` is the model it belongs to.

    Raises InputError `adapter.missing`, `adapter.damaged`, `adapter.unsupported`.
    """
    config, found = read_config(source / adapter.CONFIG), files.load(source / WEIGHTS, "adapter.damaged")
    odd = [
        name for name, value in found.items() if name.rpartition(".")[2] not in ("lora_a", "lora_b") or value.ndim != 2
    ]
    if config.get("fine_tune_type", "lora") != "lora" or odd or not found:
        what = odd[0] if odd else f"fine_tune_type {config.get('fine_tune_type')}"
        raise InputError(
            f"this adapter has {what}, which PEFT's LoRA has not",
            code="adapter.unsupported",
            where=str(source),
            hint=HINT,
        )
    peft = peft_config(config, found, base)
    weights = {key(name): value.T.astype(mx.float32) for name, value in found.items()}
    state.save_adapter(target, weights, peft)


def key(name: str) -> str:
    """`model.layers.0.mlp.up_proj.lora_a` -> PEFT's name."""
    module, _, matrix = name.rpartition(".lora_")
    return adapter.key(module, matrix.upper())


def peft_config(config: dict[str, Any], found: dict[str, mx.array], base: str) -> dict[str, Any]:
    """What went along under `peft`, else PEFT's words for mlx_lm's settings."""
    settings, peft = config["lora_parameters"], config.get("peft")
    rank = int(settings["rank"])
    alpha = settings["scale"] * rank
    if isinstance(peft, dict) and peft.get("r") == rank and math.isclose(peft.get("lora_alpha", 0), alpha):
        return peft | ({"base_model_name_or_path": base} if base else {})
    method = Method(r=rank, alpha=alpha, dropout=settings.get("dropout", 0.0))
    modules = sorted({name.rpartition(".lora_")[0] for name in found})
    return adapter.config(method, modules, base=base, revision=None, transposed=False)


def read_config(path: Path) -> dict[str, Any]:
    """mlx_lm's adapter_config.json, with what is read here."""
    try:
        config: dict[str, Any] = gate.parse(path)
        settings = config.get("lora_parameters") or {"rank": 1, "scale": 1.0}
        if not (int(settings["rank"]) > 0 and float(settings["scale"]) == settings["scale"]):
            raise ValueError("no rank, or no scale")
    except FileNotFoundError:
        raise InputError(
            f"there is no {adapter.CONFIG}: this is not an adapter folder",
            code="adapter.missing",
            where=str(path.parent),
            hint="Name the folder that mlx_lm was told by --adapter-path.",
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise InputError(
            f"the adapter's configuration cannot be read ({error or type(error).__name__})",
            code="adapter.damaged",
            where=str(path),
            hint=adapter.COPY,
        ) from None
    return config


def is_mlx_lm(folder: Path) -> bool:
    """Whether a folder holds an adapter in mlx_lm's layout."""
    return (folder / WEIGHTS).is_file() and not (folder / adapter.WEIGHTS).is_file()


def scores(
    folder: Path, adapter_folder: Path | None, texts: Sequence[Sequence[int] | NDArray[np.int32]], exact: bool
) -> list[NDArray[np.float32]]:
    """Per text, float32 [T − 1]: log-probabilities by mlx_lm's own loaders and its own forward. `exact`: in float32,
    else in the number type of the stored weights, as mlx_lm does by itself.

    Raises InputError `model.unloadable`, and `adapter.mismatch` where mlx_lm does not take the adapter.
    """
    source.check(folder)
    if lacking := family.lacks(folder):
        raise model.unloadable(f"it lacks {lacking}", folder)
    device.use("cpu")
    loaded, _ = load_model(folder)
    try:
        loaded = load_adapters(loaded, str(adapter_folder)) if adapter_folder else loaded
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise InputError(
            f"mlx_lm does not load this adapter over this model ({str(error).splitlines()[-1].strip()})",
            code="adapter.mismatch",
            where=str(adapter_folder),
            hint="Name the model that the adapter was trained on.",
        ) from error
    if exact:
        loaded.set_dtype(mx.float32)
    loaded.eval()
    return [logs(loaded, np.asarray(ids)) for ids in texts]


def logs(loaded: Any, ids: NDArray[np.int32]) -> NDArray[np.float32]:
    z = loaded(mx.array(ids[None]))[0, :-1].astype(mx.float32)
    return np.array(mx.take_along_axis(z, mx.array(ids[1:, None]), -1)[:, 0] - mx.logsumexp(z, -1))
