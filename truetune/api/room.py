"""What a model needs here: which methods of training fit into which memory, and what serving takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from truetune.models.facts import Facts

LENGTH = 2048
"""Tokens of the longest example, for what fits."""


def free(memory: str | None) -> tuple[int, bool]:
    """Bytes for training, and whether a GPU has them: as named, else what is free here. Raises UsageError
    `usage.bad_value`."""
    from truetune import engines
    from truetune.api.memory import bytes_of
    from truetune.api.status import gpus
    from truetune.config.values import parse_memory
    from truetune.models import memory as memories

    possible = gpus() != []  # where the system lists none, no framework is asked: that takes seconds
    name = next((name for name in engines.TABLE if possible and engines.installed(name)), None)
    engine = engines.module(name) if name else None
    device = engine.choose("auto", "auto").device if engine else "cpu"
    gpu = device != "cpu"
    if memory is not None:
        return bytes_of(memory, parse_memory), gpu
    return memories.available(engine.free(device) if engine else None), gpu


def training(known: Facts, room: int, gpu: bool) -> list[dict[str, Any]]:
    """The methods of training, each with what it needs for examples of `LENGTH` tokens."""
    from truetune.engines.packing import PACKS
    from truetune.models import chances
    from truetune.models.memory import Setup

    dtype = "bfloat16" if gpu else "float32"
    setup = Setup(r=16, dtype=dtype, packed=known.model_type in PACKS, gpu=gpu)
    length = min(LENGTH, known.reach or LENGTH)
    return [row.to_json() for row in chances.table(chances.cases(known, setup, length, room))]


def serving(known: Facts) -> dict[str, Any]:
    """Bytes of the weights as they are stored, and of the keys and values of one conversation as long as may be."""
    bits = known.bits or {"F32": 32, "F16": 16, "BF16": 16}.get(known.dtype, 32)
    weights = known.parameters * bits // 8
    each = 2 * known.layers * known.kv_heads * known.head_dim * (4 if known.dtype == "F32" else 2)
    context = min(LENGTH, known.reach or LENGTH)
    return {"weights": weights, "per_token": each, "context": context, "total": weights + each * context}
