"""To mlx_lm: an adapter in its own layout, beside the tokenizer and template it was trained with; a model as it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from truetune import engines
from truetune.engines import adapter as adapters
from truetune.engines import parity
from truetune.engines.parity import MLX_LM, Side
from truetune.errors import InputError, UsageError
from truetune.export import files
from truetune.export.origin import Origin
from truetune.models import facts


def write(origin: Origin, folder: Path) -> Side:
    """Into an existing folder; returns who is to load it.

    Raises UsageError `export.same`, `export.packed`, InputError `export.lacks`, and what the exchange raises.
    """
    side = origin.side
    if side.engine == MLX_LM:
        raise UsageError(
            "this adapter is in mlx_lm's layout already",
            code="export.same",
            where=origin.name,
            hint="Export it as PEFT's: --format peft.",
        )
    if side.bits:
        raise UsageError(
            f"the adapter was trained beside a base packed into {side.bits} bits, which MLX packs otherwise",
            code="export.packed",
            where=origin.name,
            hint="Export it as PEFT's: --format peft; or train with method.type lora.",
        )
    if side.adapter and adapters.read_config(side.adapter, adapters.KINDS)["peft_type"] != "LORA":
        raise InputError(
            "mlx_lm has only adapters of the kind lora",
            code="export.lacks",
            where=origin.name,
            hint="Export it as PEFT's: --format peft.",
        )
    lacking = engines.module("mlx").lacks(side.model)
    if lacking:
        raise InputError(
            f"MLX does not compute {lacking} as transformers does",
            code="export.lacks",
            where=origin.name,
            hint="Export it as PEFT's: --format peft.",
        )
    if side.adapter is None:
        files.model(side.model, folder)
        return Side(MLX_LM, folder)
    engines.module("mlx").exchange.to_mlx_lm(side.adapter, folder)
    files.companions(side.adapter, folder)
    return Side(MLX_LM, side.model, folder)


def store(
    origin: Origin, folder: Path, side: Side, texts: parity.Texts, exact: NDArray[np.float32]
) -> dict[str, Any] | None:
    """mlx_lm computes in the number type of the stored weights, if nobody tells it otherwise."""
    dtype = facts.read(origin.side.model).dtype
    if dtype == "F32":
        return None
    coarse = replace(side, exact=False)
    found = parity.apart(side, exact, coarse, parity.scores(coarse, texts))
    return {"dtype": dtype, "largest": found.largest, "mean": found.mean}
