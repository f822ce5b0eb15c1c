"""An adapter folded into its base without loading it: file by file, tensor by tensor, by rows.

What an adapter makes of a weight is computed in float32 and rounded once to the number type that the weight is stored
in. What the adapter does not change is copied byte for byte, and the files are cut as the base's are. In memory are the
adapter and a block of rows, of a packed base one weight of it in float32, however large the model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from truetune.export import basis, changes
from truetune.export.basis import DTYPES, Weight
from truetune.export.changes import Change, Scaled, Whole
from truetune.models import header, tensorfile, weights

Wide = Literal["", "changed", "all"]
"""Which tensors are stored in float32 where they were narrower."""


@dataclass(frozen=True)
class Fold:
    """Which weights of a base an adapter changes, and how."""

    model: Path
    files: Mapping[Path, list[Weight]]
    changed: Mapping[str, Change]
    """By the names of the base's files."""

    @property
    def weights(self) -> dict[str, Weight]:
        return {weight.tensor.name: weight for found in self.files.values() for weight in found}


def plan(model: Path, folder: Path | None, bits: int = 0) -> Fold | None:
    """How an adapter is folded in, without one how the base is read; None for what this way cannot do: virtual tokens,
    a vocabulary that grows, and weights whose names or shapes in the files are not those of the modules.

    Raises InputError as `changes.read` and `basis.read`.
    """
    wanted = changes.read(folder) if folder else {}
    if wanted is None:
        return None
    fold = Fold(model, basis.read(model, bits), {})
    stands, found = fold.weights, dict[str, Change]()
    for name, change in wanted.items():
        there = named(name, stands)
        if there is None and spare(name, change, wanted, stands):
            continue
        if there is None or there in found or not fits(change, stands[there].tensor):
            return None
        found[there] = change
    return Fold(model, fold.files, found) if found or not folder else None


def named(parameter: str, stands: Mapping[str, Weight]) -> str | None:
    """The file's name of a parameter: some files leave out the name of the model around it."""
    parts = parameter.split(".")
    candidates = (".".join(parts[at:]) for at in range(min(2, len(parts) - 1)))
    return next((name for name in candidates if name in stands), None)


def spare(name: str, change: Change, wanted: Mapping[str, Change], stands: Mapping[str, Weight]) -> bool:
    """Whether a parameter that no file has needs none: the bias of a layer without one, or the other name of an
    embedding that is the head, too."""
    if isinstance(change, Scaled):
        return name.endswith(".bias")
    others = (one for key, one in wanted.items() if key != name and named(key, stands))
    return isinstance(change, Whole) and any(isinstance(one, Whole) and change.same(one) for one in others)


def fits(change: Change, tensor: header.Tensor) -> bool:
    return tensor.dtype in DTYPES and change.shape(tensor.shape) == tensor.shape


def write(fold: Fold, folder: Path, *, wide: Wide = "") -> None:
    """The weights of the folded model, with its index, in an existing folder. `wide` stores what is changed, for a
    comparison, or `all`; the others have the number type that they had. Raises InputError, OSError."""
    for path, found in fold.files.items():
        tensors = [kept(fold, weight, wide) for weight in found]
        texts = header.parts(path)[1]
        tensorfile.write(folder / path.name, tensors, streamed(fold, found, tensors), texts or {"format": "pt"})
    basis.unpacked.cache_clear()
    if list(fold.files) != [fold.model / weights.SINGLE]:
        body = json.loads((fold.model / weights.INDEX).read_text("utf-8"))
        written = [place for path in fold.files for place in tensorfile.places(folder / path.name)]
        body["metadata"] = dict(body.get("metadata") or {}) | {"total_size": sum(place.size for place in written)}
        body["weight_map"] = {place.tensor.name: place.file.name for place in written}
        (folder / weights.INDEX).write_text(json.dumps(body, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def kept(fold: Fold, weight: Weight, wide: Wide) -> header.Tensor:
    tensor = weight.tensor
    other = tensor.name in fold.changed or weight.whole is not None
    widened = (wide == "all" or (wide == "changed" and other)) and tensor.dtype in ("F16", "BF16")
    return header.Tensor(tensor.name, "F32" if widened else tensor.dtype, tensor.shape)


@torch.no_grad()
def streamed(fold: Fold, found: list[Weight], tensors: list[header.Tensor]) -> Iterator[bytes]:
    for weight, tensor in zip(found, tensors, strict=True):
        if change := fold.changed.get(tensor.name):
            yield from (octets(rows.to(DTYPES[tensor.dtype])) for rows in change.folded(weight))
        elif weight.whole is not None or tensor.dtype != weight.tensor.dtype:
            yield from (octets(weight.read(*part).to(DTYPES[tensor.dtype])) for part in weight.blocks())
        else:
            yield from tensorfile.copied(weight.place)


def octets(tensor: torch.Tensor) -> bytes:
    found: bytes = tensor.contiguous().view(torch.uint8).numpy().tobytes()
    return found
