"""An adapter of LoRA's family folded into its base without loading it: file by file, tensor by tensor, by rows.

W' = W + s B A, of DoRA m ⊙ (W + s B A) / ‖W + s B A‖ by output, in float32, and rounded once to the number type that W
is stored in. What the adapter does not change is copied byte for byte, and the files are cut as the base's are. In
memory are the adapter and a block of rows, however large the model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch

from truetune.engines import adapter, family
from truetune.export import lowrank
from truetune.export.lowrank import Part
from truetune.models import facts, header, tensorfile, weights
from truetune.models.tensorfile import Place

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Number types of weights that are folded into, by their names in safetensors."""
Wide = Literal["", "changed", "all"]
"""Which tensors are stored in float32 where they were narrower."""
BLOCK = 1 << 21
"""Numbers that are folded at once."""
ROUNDING = {"F64": 1e-5, "F32": 1e-5, "F16": 2.0**-10, "BF16": 2.0**-7}
"""What rounding to a number type and another order of sums explain, as a share of a row's largest number."""


@dataclass(frozen=True)
class Fold:
    """Which tensors of a base an adapter changes, and how."""

    model: Path
    part: Part
    changed: Mapping[str, str]
    """Tensor of the base's files -> module."""
    transposed: bool
    """W is stored as [I, O], as GPT-2's is."""

    @cached_property
    def layers(self) -> dict[str, lowrank.Pair]:
        return self.part.layers


def plan(model: Path, folder: Path, bits: int = 0) -> Fold | None:
    """How an adapter is folded in; None for what this way cannot do: other methods, a packed base, new tokens, whole
    modules, and weights whose names or shapes in the files are not those of the modules.

    Raises InputError as `lowrank.read` and `weights.shards`.
    """
    body = adapter.read_config(folder, adapter.KINDS)
    if bits or facts.read(model).bits or body["peft_type"] != "LORA":
        return None
    part = lowrank.read(folder)
    stands = {tensor.name: tensor for tensor in weights.tensors(model)}
    transposed = bool(body.get("fan_in_fan_out"))
    names = {module: named(module, stands) for module in part.layers}
    fitting = all(
        name is not None
        and stands[name].dtype in DTYPES
        and stands[name].shape == shape(part.layers[module], transposed)
        for module, name in names.items()
    )
    once = len(set(names.values())) == len(names)
    if part.layout.alone or not fitting or not once or not names:
        return None
    return Fold(model, part, {str(name): module for module, name in names.items()}, transposed)


def named(module: str, stands: Mapping[str, header.Tensor]) -> str | None:
    """The file's tensor of a module's weight: some files leave out the name of the model around it."""
    parts = module.split(".")
    candidates = (".".join([*parts[at:], "weight"]) for at in range(min(2, len(parts))))
    return next((name for name in candidates if name in stands), None)


def shape(pair: lowrank.Pair, transposed: bool) -> tuple[int, int]:
    inputs, outputs = pair[0].shape[1], pair[1].shape[0]
    return (inputs, outputs) if transposed else (outputs, inputs)


def write(fold: Fold, folder: Path, *, wide: Wide = "") -> None:
    """The weights and their index into an existing folder. Stored in float32 are those that were `changed`, for a
    comparison, or `all`; the others have the number type that they had. Raises InputError, OSError."""
    shards = weights.shards(fold.model)
    for path in shards:
        found = tensorfile.places(path)
        tensors = [kept(fold, place, wide) for place in found]
        texts = header.parts(path)[1]
        tensorfile.write(folder / path.name, tensors, streamed(fold, found, tensors), texts or {"format": "pt"})
    index = fold.model / weights.INDEX
    if len(shards) > 1 or shards[0].name != weights.SINGLE:
        body = json.loads(index.read_text("utf-8"))
        size = sum(sum(place.size for place in tensorfile.places(folder / path.name)) for path in shards)
        body["metadata"] = dict(body.get("metadata") or {}) | {"total_size": size}
        (folder / weights.INDEX).write_text(json.dumps(body, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def kept(fold: Fold, place: Place, wide: Wide) -> header.Tensor:
    tensor = place.tensor
    widened = wide == "all" or (wide == "changed" and tensor.name in fold.changed)
    narrow = tensor.dtype in ("F16", "BF16")
    return header.Tensor(tensor.name, "F32" if widened and narrow else tensor.dtype, tensor.shape)


def streamed(fold: Fold, found: list[Place], tensors: list[header.Tensor]) -> Iterator[bytes]:
    for place, tensor in zip(found, tensors, strict=True):
        if tensor.name in fold.changed:
            yield from folded(fold, place, tensor.dtype)
        elif tensor.dtype != place.tensor.dtype:
            yield from (octets(stored(place, *part).to(DTYPES[tensor.dtype])) for part in blocks(place))
        else:
            yield from tensorfile.copied(place)


@torch.no_grad()
def folded(fold: Fold, place: Place, dtype: str) -> Iterator[bytes]:
    """The new bytes of a changed tensor, block by block."""
    factor = rescaled(fold, place)
    for first, last in blocks(place):
        rows = added(fold, place, first, last)
        if factor is not None:
            rows *= factor[None] if fold.transposed else factor[first:last, None]
        yield octets(rows.to(DTYPES[dtype]))


def octets(tensor: torch.Tensor) -> bytes:
    found: bytes = tensor.contiguous().view(torch.uint8).numpy().tobytes()
    return found


def rescaled(fold: Fold, place: Place) -> torch.Tensor | None:
    """Of DoRA: m / ‖W + s B A‖ of each output, float32 [O]; None for others."""
    if not fold.part.layout.dora:
        return None
    squares = torch.zeros(place.tensor.shape[1 if fold.transposed else 0], dtype=torch.float64)
    for first, last in blocks(place):
        rows = added(fold, place, first, last).double().square()
        if fold.transposed:
            squares += rows.sum(0)
        else:
            squares[first:last] = rows.sum(1)
    name = f"{adapter.PREFIX}{fold.changed[place.tensor.name]}{family.MAGNITUDE}"
    return (fold.part.tensors[name].double() / squares.sqrt()).float()


def added(fold: Fold, place: Place, first: int, last: int) -> torch.Tensor:
    """Rows of W + s B A as they are stored, float32; of GPT-2 a row is one of inputs."""
    A, B = fold.layers[fold.changed[place.tensor.name]]
    change = A[:, first:last].t() @ B.t() if fold.transposed else B[first:last] @ A
    return stored(place, first, last).float() + change * fold.part.layout.scale


def stored(place: Place, first: int, last: int) -> torch.Tensor:
    """Rows of a matrix of a file, in its number type."""
    found = torch.frombuffer(place.read(first, last), dtype=DTYPES[place.tensor.dtype])
    return found.view(last - first, *place.tensor.shape[1:])


def blocks(place: Place) -> Iterator[tuple[int, int]]:
    step = max(1, BLOCK // max(1, place.tensor.size // max(place.rows, 1)))
    for first in range(0, place.rows, step):
        yield first, min(first + step, place.rows)
