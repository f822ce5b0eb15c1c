"""Adapters to and from mlx_lm's own layout. On disk TrueTune keeps PEFT's layout; the two ways undo each other.

mlx_lm                         PEFT
adapters.safetensors           adapter_model.safetensors
  <module>.lora_a [in, r]        base_model.model.<module>.lora_A.weight [r, in]
  <module>.lora_b [r, out]       base_model.model.<module>.lora_B.weight [out, r]
  <module>.m [out]               base_model.model.<module>.lora_magnitude_vector [out], of DoRA
adapter_config.json            adapter_config.json
  scale                          lora_alpha / r, of rsLoRA lora_alpha / √r
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

from truetune.engines import adapter
from truetune.engines import family as families
from truetune.engines.base import Method, write
from truetune.engines.mlx import files, state
from truetune.errors import InputError
from truetune.models import gate

WEIGHTS = "adapters.safetensors"
LEAVES = {"lora": {"lora_a": 2, "lora_b": 2}, "dora": {"lora_a": 2, "lora_b": 2, "m": 1}}
"""Kind of an adapter -> what mlx_lm keeps of a layer, and its dimensions."""
HINT = "LoRA, rsLoRA and DoRA on linear layers can be exchanged; merge other adapters into their base."


def to_mlx_lm(source: Path, target: Path) -> None:
    """Write a PEFT adapter into the existing folder `target` as `mlx_lm.load(…, adapter_path=target)` reads it.

    PEFT's configuration goes along under the key `peft`, which mlx_lm does not read.
    Raises InputError as `adapter.read_config`, and `adapter.damaged`, `adapter.unsupported`.
    """
    adapter.read_config(source)  # says it where this is no adapter
    found = files.load(source / adapter.WEIGHTS, "adapter.damaged")
    body, layout = families.read(source, found)
    if layout.alone:
        raise unsupported("trained rows of tokens" if layout.rows else f"{layout.whole[0]} trained whole", source)
    kind = "dora" if layout.dora else "lora"
    modules = sorted({name.removeprefix(adapter.PREFIX).rpartition(".lora_")[0] for name in found})
    places = {f"{module}.{leaf}": peft_key(module, leaf) for module in modules for leaf in LEAVES[kind]}
    wanted = dict.fromkeys(places.values(), ())
    adapter.refuse_mismatch(wanted, dict.fromkeys(found, ()), str(source / adapter.WEIGHTS))
    state.part(WEIGHTS, {name: found[place].T for name, place in places.items()})(target)
    settings = {
        "rank": body["r"],
        "scale": layout.scale,
        "dropout": body.get("lora_dropout", 0.0),
        # Full names: mlx_lm matches them over the whole model, so any choice of layers can be said.
        "keys": modules,
    }
    layers = len({module.split(".layers.")[-1].split(".")[0] for module in modules})
    config = {"fine_tune_type": kind, "num_layers": layers, "lora_parameters": settings, "peft": body}
    adapter.write_config(target, config)


def from_mlx_lm(source: Path, target: Path, *, base: str = "") -> None:
    """Write an adapter of mlx_lm into the existing folder `target` in PEFT's layout. `base` is the model it belongs to.

    Raises InputError `adapter.missing`, `adapter.damaged`, `adapter.unsupported`.
    """
    config, found = read_config(source / adapter.CONFIG), files.load(source / WEIGHTS, "adapter.damaged")
    kind = config.get("fine_tune_type", "lora")
    leaves = LEAVES.get(kind, {})
    odd = [name for name, value in found.items() if leaves.get(name.rpartition(".")[2]) != value.ndim]
    modules = sorted({name.rpartition(".")[0] for name in found})
    if odd or not found or len(found) != len(modules) * len(leaves):
        raise unsupported(odd[0] if leaves and odd else f"fine_tune_type {kind}", source)
    peft = peft_config(config, modules, base)
    weights = {peft_key(*split(name)): value.T.astype(mx.float32) for name, value in found.items()}
    write(state.adapter_parts(weights, peft), target)


def unsupported(what: str, where: Path) -> InputError:
    return InputError(
        f"this adapter has {what}, and the other layout has no place for it",
        code="adapter.unsupported",
        where=str(where),
        hint=HINT,
    )


def split(name: str) -> tuple[str, str]:
    """A tensor's module and leaf."""
    module, _, leaf = name.rpartition(".")
    return module, leaf


def peft_key(module: str, leaf: str) -> str:
    """`model.layers.0.mlp.up_proj`, `lora_a` -> PEFT's name."""
    if leaf == "m":
        return f"{adapter.PREFIX}{module}{families.MAGNITUDE}"
    return adapter.key(module, leaf[-1].upper())


def peft_config(config: dict[str, Any], modules: Sequence[str], base: str) -> dict[str, Any]:
    """What went along under `peft`, else PEFT's words for mlx_lm's settings."""
    settings, peft = config["lora_parameters"], config.get("peft")
    rank, scale, kind = int(settings["rank"]), float(settings["scale"]), config.get("fine_tune_type", "lora")
    if isinstance(peft, dict) and same(peft, rank, scale, kind):
        return peft | ({"base_model_name_or_path": base} if base else {})
    method = Method(type=kind, r=rank, alpha=scale * rank, dropout=settings.get("dropout", 0.0))
    return adapter.config(method, modules, base=base, revision=None, transposed=False)


def same(peft: dict[str, Any], rank: int, scale: float, kind: str) -> bool:
    """Whether PEFT's configuration says what mlx_lm's does."""
    try:
        found = families.layout(peft, ())
    except (ValueError, KeyError, TypeError, ArithmeticError):
        return False
    return peft["r"] == rank and math.isclose(found.scale, scale) and found.dora == (kind == "dora")


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
