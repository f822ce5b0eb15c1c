"""Bases whose weights are stored packed: bitsandbytes' 4 and 8 bits are read, other ways are refused.

Only known values of the folder's `quantization_config` reach the engine: see `settings`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from truetune.errors import InputError
from truetune.models import header
from truetune.models.header import Tensor

KEY = "quantization_config"
KIND = re.compile(r"[A-Za-z0-9_.-]{1,64}")
TYPES = ("nf4", "fp4")
DTYPES = ("float32", "float16", "bfloat16")


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """bitsandbytes' settings of a stored base, for its loader; nothing where the weights are plain.

    Raises ValueError for what is stored in another way, with that way's name.
    """
    found = config.get(KEY)
    if not found:
        return {}
    kind = found.get("quant_method") if isinstance(found, dict) else None
    four, eight = (found.get(f"load_in_{bits}bit") is True if kind == "bitsandbytes" else False for bits in (4, 8))
    if four == eight:
        raise ValueError(kind if isinstance(kind, str) and KIND.fullmatch(kind) else "")
    body = {"quant_method": "bitsandbytes", "load_in_4bit": four, "load_in_8bit": eight}
    skipped = found.get("llm_int8_skip_modules")
    if isinstance(skipped, list) and all(isinstance(name, str) and KIND.fullmatch(name) for name in skipped):
        body["llm_int8_skip_modules"] = list(skipped)
    if eight:
        return body
    wanted = {
        "bnb_4bit_quant_type": (found.get("bnb_4bit_quant_type", "fp4"), TYPES),
        "bnb_4bit_compute_dtype": (found.get("bnb_4bit_compute_dtype", "float32"), DTYPES),
        "bnb_4bit_quant_storage": (found.get("bnb_4bit_quant_storage", "uint8"), ("uint8",)),
        "bnb_4bit_use_double_quant": (found.get("bnb_4bit_use_double_quant", False), (True, False)),
    }
    if any(value not in allowed for value, allowed in wanted.values()):
        raise ValueError("bitsandbytes, with settings of its own")
    return body | {name: value for name, (value, _) in wanted.items()}


def bits(config: Mapping[str, Any]) -> int:
    """4 or 8 where the weights are stored packed, else 0; 0 too for what `refuse` refuses."""
    try:
        found = settings(config)
    except ValueError:
        return 0
    return 0 if not found else 4 if found["load_in_4bit"] else 8


NOTE = "base_bits"
"""In the metadata of an adapter's file: how its base was packed while it was trained. PEFT's settings do not say."""
STATE = re.compile(r"\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\.[^.]+|SCB|weight_format)$")
"""Ends of the names of tensors that say how to unpack others."""


def noted(path: Path) -> int:
    """The bits that an adapter's file notes; 0 where it notes none, or cannot be read: its reader says so."""
    try:
        text = header.parts(path)[1].get(NOTE, "")
    except (ValueError, OSError):
        return 0
    return int(text) if text in ("4", "8") else 0


def counted(tensors: Iterable[Tensor]) -> int:
    """Numbers of a model, packed ones as they count before packing: two stand in each byte of 4 bits."""
    weights = (tensor for tensor in tensors if not STATE.search(tensor.name))
    return sum(tensor.size * (2 if tensor.dtype == "U8" else 1) for tensor in weights)


def refuse(config: Mapping[str, Any], folder: Path) -> None:
    """Weights that are packed in a way without gradients through it. Raises InputError `model.quantized`."""
    try:
        settings(config)
    except ValueError as error:
        named = f" ({error})" if str(error) else ""
        raise InputError(
            f"the weights are stored quantized{named}",
            code="model.quantized",
            where=str(folder / "config.json"),
            hint="name the original model, with weights in bfloat16, float16 or float32: `method: qlora` packs them "
            "while it loads; models packed by bitsandbytes load as they are",
        ) from None
