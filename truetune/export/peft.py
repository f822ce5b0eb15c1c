"""To PEFT and all that reads its layout: an adapter with the tokenizer and template it was trained with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from truetune import engines
from truetune.engines.parity import MLX_LM, Side, Texts
from truetune.errors import UsageError
from truetune.export import files
from truetune.export.origin import Origin, loader


def write(origin: Origin, folder: Path) -> Side:
    """Into an existing folder; returns who is to load it. Raises UsageError `export.no_adapter`, what the exchange
    raises."""
    side = origin.side
    if side.adapter is None:
        raise UsageError(
            "this is a whole model, and PEFT's layout is one of adapters",
            code="export.no_adapter",
            where=origin.name,
            hint="Its folder is what transformers loads; for an adapter train with method.type lora.",
        )
    if side.engine == MLX_LM:
        base = origin.base.name if origin.base.kind == "hub" else str(origin.base.folder)
        engines.module("mlx").exchange.from_mlx_lm(side.adapter, folder, base=base)
        files.companions(side.adapter, folder)
    else:
        files.adapter(side.adapter, folder)
    return Side(loader(), side.model, folder, bits=side.bits)


def store(origin: Origin, folder: Path, side: Side, texts: Texts, exact: NDArray[np.float32]) -> None:
    """An adapter is stored as it was trained."""
