"""Rotary positions in a GGUF file: base, scaling, and factors of single frequencies.

llama.cpp divides the angle of each pair by its factor, so that what transformers computes for a scaling (Llama 3's,
LongRoPE's) becomes factors: plain frequency over scaled frequency, from transformers' own functions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from truetune.export.gguf.family import Model, setting

LOCAL = 10000.0
"""The base of the layers with a window, as llama.cpp has it for Gemma 3."""
KEYS = {
    "default": {"rope_theta", "rope_type", "partial_rotary_factor"},
    "linear": {"rope_theta", "rope_type", "factor"},
    "yarn": {"rope_theta", "rope_type", "factor", "original_max_position_embeddings", "beta_fast", "beta_slow"},
    "llama3": {"rope_theta", "rope_type", "factor", "original_max_position_embeddings", "low_freq_factor",
               "high_freq_factor"},
    "longrope": {"rope_theta", "rope_type", "factor", "original_max_position_embeddings", "short_factor",
                 "long_factor", "attention_factor", "partial_rotary_factor"},
}  # fmt: skip
"""Scaling -> the parameters that are written."""
USUAL = {"beta_fast": 32, "beta_slow": 1, "truncate": True}
"""What llama.cpp takes for granted of YaRN."""

Factors = dict[str, NDArray[np.float32]]


def check(found: Model, folder: Path) -> None:
    """Raises InputError `export.setting` for a scaling, or a parameter of it, that is not written."""
    if not found.family.ropes:
        return
    rope = found.rope
    kind = rope.get("rope_type", "default")
    if kind not in found.family.ropes:
        raise setting("rope_type", kind, folder)
    for name, value in rope.items():
        known = name in KEYS[kind] or (name, value) in USUAL.items() or value is None
        other = name in USUAL and value != USUAL[name]
        if not known or other:
            raise setting(f"rope_parameters.{name}", value, folder)
    if found.family.permuted and found.rotary != found.head_dim:
        raise setting("partial_rotary_factor", rope["partial_rotary_factor"], folder)
    check_local(found, folder)


def check_local(found: Model, folder: Path) -> None:
    """The layers with a window have a base of their own in Gemma 3, and the same one in Gemma 2."""
    every: dict[str, Any] = found.config.rope_parameters
    local = every.get("sliding_attention")
    if local is None:
        return
    if local.get("rope_type", "default") != "default" or local["rope_theta"] != LOCAL:
        raise setting("rope_parameters.sliding_attention", local, folder)


def write(found: Model, writer: gguf.GGUFWriter) -> Factors:
    """Write the keys; returns the tensors of factors, float32 [rotary / 2] each, by name in the file."""
    if not found.family.ropes:
        return {}
    rope = found.rope
    kind = rope.get("rope_type", "default")
    writer.add_rope_dimension_count(found.rotary)
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    if kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
        writer.add_rope_scaling_factor(float(rope["factor"]))
    if kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(original(found))
    if kind == "llama3":
        return {"rope_freqs.weight": ratio(found, kind)[0]}
    if kind == "longrope":
        return longrope(found, writer)
    return {}


def longrope(found: Model, writer: gguf.GGUFWriter) -> Factors:
    """Factors for texts up to and beyond the length of the training, and what the amplitude is multiplied with."""
    writer.add_rope_scaling_orig_ctx_len(original(found))
    short, amplitude = ratio(found, "longrope", original(found))
    long, _ = ratio(found, "longrope", original(found) + 1)
    writer.add_rope_scaling_attn_factors(amplitude)
    return {"rope_factors_long.weight": long, "rope_factors_short.weight": short}


def original(found: Model) -> int:
    return int(found.rope.get("original_max_position_embeddings") or found.config.max_position_embeddings)


def ratio(found: Model, kind: str, length: int | None = None) -> tuple[NDArray[np.float32], float]:
    """(plain over scaled frequencies, float32 [rotary / 2]; the amplitude) for a text of `length` tokens."""
    scaled, amplitude = ROPE_INIT_FUNCTIONS[kind](found.config, "cpu", seq_len=length)
    plain = float(found.rope["rope_theta"]) ** -(np.arange(0, found.rotary, 2, dtype=np.float64) / found.rotary)
    return (plain / scaled.double().numpy()).astype(np.float32), float(amplitude)
