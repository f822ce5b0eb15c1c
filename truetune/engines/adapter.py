"""The adapter on disk, in PEFT's layout, so that PEFT and everything built on it load what is trained here.

adapter_config.json            PEFT's LoraConfig
adapter_model.safetensors      base_model.model.<module>.lora_A.weight [r, in], …lora_B.weight [out, r], float32
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from truetune.engines.base import Method, Part
from truetune.engines.prompts import PROMPTS
from truetune.errors import InputError, UsageError
from truetune.models import gate, header

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
COPY = "Copy the adapter again."
PREFIX = "base_model.model."

NEUTRAL: dict[str, Any] = {
    "bias": "none",
    "rank_pattern": {},
    "alpha_pattern": {},
    "layers_to_transform": None,
    "lora_bias": False,
}
"""Settings of PEFT that an adapter may carry only with these values: others need what this version lacks."""
KINDS = ("LORA", *PROMPTS.values(), "IA3")
"""Kinds of adapters that can be asked and evaluated."""
LARGEST = 2**16
"""Of a rank and an alpha."""
FOREIGN = ("alora_invocation_tokens", "layer_replication", "megatron_config", "target_parameters", "use_qalora")
"""Settings of PEFT that change the model in other ways; an adapter that sets one is none of these layers."""


def key(module: str, matrix: str) -> str:
    """`model.layers.0.self_attn.q_proj`, `A` -> PEFT's tensor name."""
    return f"{PREFIX}{module}.lora_{matrix}.weight"


def config(
    method: Method, targets: Sequence[str], *, base: str, revision: str | None, transposed: bool
) -> dict[str, Any]:
    """PEFT's configuration for these target modules (full names, or suffixes where they select the same)."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "revision": revision,
        "r": method.r,
        "lora_alpha": method.alpha,
        "lora_dropout": method.dropout,
        "target_modules": list(targets),
        "fan_in_fan_out": transposed,
        "init_lora_weights": True,
        "inference_mode": True,
        "use_dora": method.type == "dora",
        "use_rslora": method.type == "rslora",
        "modules_to_save": None,
        "trainable_token_indices": None,
        **NEUTRAL,
    }


def write_config(folder: Path, body: dict[str, Any]) -> None:
    (folder / CONFIG).write_text(json.dumps(body, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def config_part(body: dict[str, Any]) -> Part:
    """What writes this configuration into a folder."""
    return lambda folder: write_config(folder, body)


def read_config(folder: Path, kinds: Collection[str] = ("LORA",)) -> dict[str, Any]:
    """The configuration of an adapter that this version can train on, of one of these kinds (PEFT's names).

    Raises InputError: `adapter.missing`, `adapter.pickle_weights`, `adapter.damaged`, `adapter.unsupported`.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise InputError(
            f"there is no {CONFIG}: this is not an adapter folder",
            code="adapter.missing",
            where=str(folder),
            hint="Name the folder that holds adapter_config.json, for example runs/<id>/adapter.",
        )
    if not (folder / WEIGHTS).is_file():
        pickled = (folder / "adapter_model.bin").is_file()
        raise InputError(
            f"there is no {WEIGHTS}" + (", only pickled weights, which are never opened" if pickled else ""),
            code="adapter.pickle_weights" if pickled else "adapter.missing",
            where=str(folder),
            hint="Save the adapter again as safetensors.",
        )
    try:
        body = checked(gate.parse(path), folder / WEIGHTS)
    except (ValueError, OSError) as error:
        raise InputError(f"cannot be read ({error})", code="adapter.damaged", where=str(path), hint=COPY) from None
    refuse_code(body, path)
    kind = body.get("peft_type")
    neutral = NEUTRAL if kind == "LORA" else {"modules_to_save": None, "num_transformer_submodules": 1}
    unsupported = [name for name, value in neutral.items() if body.get(name, value) not in (value, None)]
    unsupported += [name for name in FOREIGN if body.get(name)]
    if kind not in kinds or unsupported:
        what = ", ".join(unsupported) or f"peft_type {kind}"
        other = "" if unsupported else other_method(str(kind))
        raise InputError(
            f"this adapter uses {what}, which {'another method trains' if other else 'this version does not train'}",
            code="adapter.unsupported",
            where=str(path),
            hint=other or "Start from a plain LoRA adapter, or merge it into its base first.",
        )
    return body


def other_method(kind: str) -> str:
    """How to go on from an adapter that another method made; empty where none of ours did."""
    names = [name for name, made in (*PROMPTS.items(), ("ia3", "IA3")) if made == kind]
    return f"Set method.type to {' or '.join(names)}." if names else ""


def checked(body: Any, weights: Path) -> dict[str, Any]:
    """The configuration with numbers where numbers belong. Raises ValueError.

    A pattern of target modules gives way to the modules that the file's tensors name: matching a stranger's pattern
    can take for ever.
    """
    if not isinstance(body, dict):
        raise ValueError("it is not an object")
    r, alpha = body.get("r"), body.get("lora_alpha")
    numbers = type(r) is int and 0 < r <= LARGEST and isinstance(alpha, int | float) and abs(alpha) <= LARGEST
    if body.get("peft_type") == "LORA" and not numbers:
        raise ValueError("r and lora_alpha are not usable numbers")
    count = body.get("num_virtual_tokens")
    if body.get("peft_type") in PROMPTS.values() and not (type(count) is int and 0 < count <= LARGEST):
        raise ValueError("num_virtual_tokens is not a usable number")
    targets = body.get("target_modules")
    if isinstance(targets, str) and targets != "all-linear":
        ends = re.compile(r"\.(lora_[AB]\.weight|ia3_l)$")
        names = [tensor.name for tensor in header.read(weights)]
        modules = {ends.sub("", name.removeprefix(PREFIX)) for name in names if ends.search(name)}
        return body | {"target_modules": sorted(modules)}
    return body


def refuse_code(body: dict[str, Any], path: Path) -> None:
    """Refuse a configuration that has PEFT import a library of its own choice. Raises InputError."""
    mapping = body.get("auto_mapping")
    library = mapping.get("parent_library") if isinstance(mapping, dict) else None
    if mapping and not (isinstance(library, str) and library.startswith("transformers.models.")):
        raise InputError(
            "the adapter asks to run code of its own (`auto_mapping`), which TrueTune does not do",
            code="adapter.custom_code",
            where=str(path),
            hint="use an adapter of a model whose architecture is part of transformers",
        )


def start(module: str, r: int, inputs: int, seed: int) -> NDArray[np.float32]:
    """PEFT's start of a layer's A, float32 [r, inputs]: uniform (Kaiming with a = √5); B starts as zero.

    Drawn from the seed and the layer's name, so that it is the same on every engine and device, and whatever other
    layers are adapted.
    """
    bound = np.float32(math.sqrt(1 / inputs))
    drawn = np.random.default_rng([seed, *module.encode()]).random((r, inputs), dtype=np.float32)
    return (drawn * 2 - 1) * bound


def select(every: Sequence[str], wanted: str | Sequence[str]) -> list[str]:
    """Which of a model's linear layers (all but the head) are adapted.

    `auto` and `all-linear` take every one (Dettmers et al. 2023), a list takes names and suffixes (`q_proj`), any
    other string is a regular expression over whole names. Raises UsageError `method.no_target`.
    """
    found = list(every) if wanted == "auto" else chosen(every, wanted)
    if isinstance(wanted, str):
        missing = [] if found or wanted in ("auto", "all-linear") else [wanted]
    else:
        missing = [suffix for suffix in wanted if not any(hit(name, suffix) for name in every)]
    if missing:
        kinds = sorted({name.rpartition(".")[2] for name in every})
        raise UsageError(
            f"no linear layer of this model is called {', '.join(missing)}",
            code="method.no_target",
            where="method.target_modules",
            hint=f"This model has {', '.join(kinds)}; `auto` takes them all.",
        )
    return found


def chosen(every: Iterable[str], wanted: str | Sequence[str]) -> list[str]:
    """The layers that PEFT's `target_modules` selects: a pattern over whole names, or names and suffixes."""
    if isinstance(wanted, str):
        return list(every) if wanted == "all-linear" else [name for name in every if re.fullmatch(wanted, name)]
    return [name for name in every if any(hit(name, suffix) for suffix in wanted)]


def upward(name: str) -> list[str]:
    """A module's name, and those of all that it stands in."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(len(parts), 0, -1)]


def hit(name: str, suffix: str) -> bool:
    return name == suffix or name.endswith("." + suffix)


def shortest(every: Iterable[str], targets: Sequence[str]) -> list[str]:
    """The shortest way to name the targets for PEFT: suffixes where they select exactly these of `every` layer."""
    suffixes = sorted({name.rpartition(".")[2] for name in targets})
    return suffixes if sorted(chosen(every, suffixes)) == sorted(targets) else list(targets)


def refuse_other_shape(body: Mapping[str, Any], method: Method) -> None:
    """Training goes on with the rank and alpha of the adapter that it starts from."""
    wanted, stands = (method.r, float(method.alpha)), (body["r"], float(body["lora_alpha"]))
    if wanted != stands:
        raise UsageError(
            f"the adapter has r={stands[0]}, alpha={stands[1]:g}, but r={wanted[0]}, alpha={wanted[1]:g} is set",
            code="adapter.other_shape",
            where="model.adapter",
            hint=f"Set method.r to {stands[0]} and method.alpha to {stands[1]:g}.",
        )


def refuse_other_prompt(body: Mapping[str, Any], method: Method) -> None:
    """Training goes on with as many virtual tokens, of the same kind: keys and values, or embeddings."""
    stands, wanted = body["num_virtual_tokens"], method.virtual_tokens
    if (body["peft_type"] == "PREFIX_TUNING") != (PROMPTS[method.type] == "PREFIX_TUNING"):
        fitting = ", ".join(name for name, kind in PROMPTS.items() if kind == body["peft_type"])
        raise UsageError(
            f"the adapter was made by {body['peft_type']}, but method.type is {method.type}",
            code="adapter.other_shape",
            where="model.adapter",
            hint=f"Set method.type to one of {fitting}.",
        )
    if stands != wanted:
        raise UsageError(
            f"the adapter has {stands} virtual tokens, but method.virtual_tokens is {wanted}",
            code="adapter.other_shape",
            where="model.adapter",
            hint=f"Set method.virtual_tokens to {stands}.",
        )


def refuse_mismatch(places: Mapping[str, Sequence[int]], tensors: Mapping[str, Sequence[int]], where: str) -> None:
    """Name -> shape of what the model has a place for, and of what the file holds: they must be the same."""
    missing, extra = sorted(places.keys() - tensors.keys()), sorted(tensors.keys() - places.keys())
    wrong = sorted(name for name in places.keys() & tensors.keys() if tuple(places[name]) != tuple(tensors[name]))
    if missing or extra or wrong or not places:
        example = (missing or extra or wrong or ["no layer"])[0]
        raise InputError(
            f"the adapter does not map onto this model ({len(missing)} tensors missing, {len(extra)} unknown, "
            f"{len(wrong)} of another shape; for example {example})",
            code="adapter.mismatch",
            where=where,
            hint="Use the base model and the target modules that the adapter was trained with.",
        )
