"""The adapter on disk, in PEFT's layout, so that PEFT and everything built on it load what is trained here.

adapter_config.json            PEFT's LoraConfig
adapter_model.safetensors      base_model.model.<module>.lora_A.weight [r, in], …lora_B.weight [out, r], float32
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from truetune.engines.base import Method
from truetune.errors import InputError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
COPY = "Copy the adapter again."
PREFIX = "base_model.model."

NEUTRAL: dict[str, Any] = {
    "bias": "none",
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "use_dora": False,
    "use_rslora": False,
    "layers_to_transform": None,
    "trainable_token_indices": None,
    "lora_bias": False,
}
"""Settings of PEFT that an adapter may carry only with these values: others need what this version lacks."""


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
        **NEUTRAL,
    }


def write_config(folder: Path, body: dict[str, Any]) -> None:
    (folder / CONFIG).write_text(json.dumps(body, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of an adapter that this version can train on.

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
        body: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"not valid JSON ({error})", code="adapter.damaged", where=str(path), hint=COPY) from None
    unsupported = [name for name, value in NEUTRAL.items() if body.get(name, value) not in (value, None)]
    if body.get("peft_type") != "LORA" or unsupported:
        what = ", ".join(unsupported) or f"peft_type {body.get('peft_type')}"
        raise InputError(
            f"this adapter uses {what}, which this version does not train",
            code="adapter.unsupported",
            where=str(path),
            hint="Start from a plain LoRA adapter, or merge it into its base first.",
        )
    return body
