"""Everything a resume needs, as safetensors: parameters, optimizer, random key. The files are named as torch's."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from safetensors.numpy import save_file

from truetune.engines import adapter
from truetune.engines.base import Part
from truetune.engines.mlx import files
from truetune.engines.mlx.adamw import AdamW, Arrays
from truetune.engines.mlx.optimizers import Rule
from truetune.errors import InputError

OPTIMIZER, RNG, FULL = "optimizer.safetensors", "rng.safetensors", "model.safetensors"
STEPS, KEY = "step", "mlx.key"


def fingerprints(parameters: Arrays) -> dict[str, str]:
    """Name -> sha256 of the parameter's bytes."""
    return {
        name: hashlib.sha256(np.ascontiguousarray(np.array(value)).data).hexdigest()
        for name, value in parameters.items()
    }


def parts(optimizer: AdamW | Rule, key: mx.array) -> tuple[Part, ...]:
    """What writes what a checkpoint holds beside the parameters."""
    state = optimizer.state() | {STEPS: mx.array(optimizer.steps, dtype=mx.int32)}
    return part(OPTIMIZER, state), part(RNG, {KEY: key})


def restore(
    folder: Path, optimizer: AdamW | Rule, file: str, taken: Callable[[Arrays], Arrays]
) -> tuple[Arrays, mx.array]:
    """Undo `parts`: the optimizer is set; returns parameters, which `taken` makes of the tensors of `file`, and key.
    Raises InputError `checkpoint.damaged`."""
    found, state = read(folder / file), read(folder / OPTIMIZER)
    try:
        refuse_other_shapes(state, optimizer.state())
        parameters = taken(found)
        optimizer.put(state, int(state[STEPS].item()))
        # In the optimizer's order: the norm of the gradient is a sum, and its bits follow from the order.
        return {name: parameters[name] for name in optimizer.names}, read(folder / RNG)[KEY]
    except (KeyError, ValueError) as error:
        raise InputError(
            f"the checkpoint does not fit its run: {error}",
            code="checkpoint.damaged",
            where=str(folder),
            hint="Go on from another checkpoint; `ft runs show` lists them.",
        ) from error


def refuse_other_shapes(found: Arrays, places: Arrays) -> None:
    """Raises ValueError, KeyError where what is kept is not what this optimizer keeps."""
    if found.keys() != places.keys() | {STEPS}:
        raise ValueError("its moments are those of another optimizer")
    for name, place in places.items():
        if (found[name].shape, found[name].dtype) != (place.shape, place.dtype):
            raise ValueError(f"{name} is of another shape")


def adapter_parts(parameters: Arrays, peft: dict[str, Any]) -> tuple[Part, ...]:
    """What writes an adapter."""
    return part(adapter.WEIGHTS, parameters), adapter.config_part(peft)


def save_model(folder: Path, parameters: Arrays, base: Path, *, writes: bool = True) -> None:
    """A whole model as transformers loads it: the base's config with the number type of these weights."""
    part(FULL, parameters)(folder)
    config = json.loads((base / "config.json").read_text("utf-8"))
    config.pop("torch_dtype", None)
    text = json.dumps(config | {"dtype": "float32"}, indent=2, sort_keys=True)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
    if writes and (base / "generation_config.json").is_file():
        shutil.copyfile(base / "generation_config.json", folder / "generation_config.json")


def part(name: str, arrays: Arrays) -> Part:
    """What writes these arrays into the file of this name, copied: later steps do not change it."""
    # safetensors writes the memory as it lies, and what was transposed lies otherwise.
    laid = {name: np.ascontiguousarray(np.array(value)) for name, value in arrays.items()}
    return lambda folder: save_file(laid, folder / name, metadata={"format": "pt"})


def read(path: Path) -> Arrays:
    return files.load(path, "checkpoint.damaged")
