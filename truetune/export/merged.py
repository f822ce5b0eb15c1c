"""To a whole model: the adapter folded into its base, for all that loads a folder of safetensors.

It is folded in float32 and compared as such: that must be what was trained. Then it is stored in the number type of its
base, and what that rounds away is measured too, and bounded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from truetune.engines import adapter as adapters
from truetune.engines import family, parity
from truetune.engines.parity import Side
from truetune.engines.prompts import PROMPTS
from truetune.engines.torch import folded
from truetune.errors import CheckFailed, UsageError
from truetune.export import files
from truetune.export.origin import Origin
from truetune.models import facts, gate
from truetune.runs import jsonfile

STORED = {"F16": "float16", "BF16": "bfloat16"}
"""Number types narrower than float32, by their names in safetensors."""
ROUNDED = 0.05
"""Mean difference of log-probabilities, in nats, that rounding to the base's number type may make."""


def write(origin: Origin, folder: Path) -> Side:
    """Into an existing folder, in float32; returns who is to load it.

    Raises UsageError `export.no_adapter`, `export.unmergeable`, and what the loading of both raises.
    """
    side = origin.side
    refuse(origin)
    assert side.adapter is not None
    places = (side.model, side.adapter)
    for place in places:
        files.companions(place, folder)
    made = folded.folded(*places, bits=side.bits, rows=rows(side.adapter))
    made.save_pretrained(folder)
    return Side("torch", folder)


def refuse(origin: Origin) -> None:
    """Raises UsageError for what is no adapter that a weight can hold."""
    side = origin.side
    if side.adapter is None:
        raise UsageError(
            "this is a whole model already",
            code="export.no_adapter",
            where=origin.name,
            hint=f"Its folder is what transformers loads: {side.model}.",
        )
    if side.engine == parity.MLX_LM:
        raise UsageError(
            "this adapter is in mlx_lm's layout",
            code="export.unmergeable",
            where=origin.name,
            hint="Export it as PEFT's first: --format peft.",
        )
    if adapters.read_config(side.adapter, adapters.KINDS)["peft_type"] in PROMPTS.values():
        raise UsageError(
            "virtual tokens stand before a text, and no weight can hold them",
            code="export.unmergeable",
            where=origin.name,
            hint="Export it as PEFT's: --format peft; or train with method.type lora.",
        )


def rows(adapter: Path) -> int:
    """How many rows the embedding must have for the tokens that an adapter brings; 0 where it brings none."""
    found = family.indices(adapters.read_config(adapter, adapters.KINDS).get("trainable_token_indices"))
    return max((number + 1 for ids in found.values() for number in ids), default=0)


def store(
    origin: Origin, folder: Path, side: Side, texts: parity.Texts, exact: NDArray[np.float32]
) -> dict[str, Any] | None:
    """Put the weights into the number type of the base: {dtype, largest, mean} of what that rounds away; None where it
    is float32. Raises CheckFailed `export.rounded` where that is more than `ROUNDED`."""
    dtype = STORED.get(facts.read(origin.side.model).dtype)
    if dtype is None:
        return None
    narrow(folder, getattr(torch, dtype))
    found = parity.apart(side, exact, side, parity.scores(side, texts))
    if found.mean > ROUNDED:
        raise CheckFailed(
            f"stored as {dtype}, the log-probabilities lie {found.mean:.2g} apart on average, {ROUNDED:g} is allowed",
            code="export.rounded",
            where=origin.name,
            hint="Nothing was written. Export the adapter as it is: --format peft.",
        )
    return {"dtype": dtype, "largest": found.largest, "mean": found.mean}


def narrow(folder: Path, dtype: torch.dtype) -> None:
    """Write every tensor of a model folder in `dtype`, a file at a time."""
    for path in sorted(folder.glob("*.safetensors")):
        tensors = {name: tensor.to(dtype) for name, tensor in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})
    config = gate.parse(folder / "config.json")
    (folder / "config.json").write_bytes(jsonfile.dumps(config | {"dtype": str(dtype).removeprefix("torch.")}))
