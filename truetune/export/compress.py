"""A smaller adapter: the B A of each layer by its largest singular values, the nearest there is of a rank (Eckart &
Young 1936).

With thin B = Q R and Aᵀ = P T the product is Q (R Tᵀ) Pᵀ, so the values are those of the rank-by-rank R Tᵀ = U S Vᵀ:
B' = Q U √S and A' = √S Vᵀ Pᵀ, of the k largest. The scale s stays, so alpha goes down with the rank; what DoRA, new
tokens and whole modules have beside A and B stays too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from truetune.engines import adapter
from truetune.errors import UsageError
from truetune.export import lowrank
from truetune.export.lowrank import Pair, Part

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
"""How A and B are stored."""


@dataclass(frozen=True)
class Compressed:
    """The new layers, and what each has kept."""

    layers: dict[str, Pair]
    energy: dict[str, float]
    """Layer -> ‖what is kept‖² ÷ ‖B A‖², before rounding to the number type; 1 = all."""
    distance: float
    """‖ΔW' − ΔW‖ ÷ ‖ΔW‖ over all layers, with the rounding."""


def compress(part: Part, rank: int | None, dtype: str = "f32") -> Compressed:
    """At this rank (None: its own), stored in this number type. Raises UsageError `compress.rank`, `compress.dtype`,
    `compress.range`."""
    refuse_unknown(dtype)
    rank = wanted(part, rank)
    layers, energy = {}, {}
    for name, pair in part.layers.items():
        found, energy[name] = nearest(pair, rank)
        layers[name] = stored(found, DTYPES[dtype], name)
    between, whole = lowrank.apart(layers, part.layers)
    return Compressed(layers, energy, between / whole if whole else 0.0)


def nearest(pair: Pair, rank: int) -> tuple[Pair, float]:
    """The nearest A [k, I] and B [O, k] to a pair, in float64, and the share of ‖B A‖² that they keep."""
    A, B = (matrix.double() for matrix in pair)
    Q, R = torch.linalg.qr(B)
    P, T = torch.linalg.qr(A.t())
    U, S, Vh = torch.linalg.svd(R @ T.t(), full_matrices=False)
    root, all_of = S[:rank].sqrt(), float(S.square().sum())
    found = root[:, None] * (Vh[:rank] @ P.t()), Q @ U[:, :rank] * root
    return padded(found, rank), float(S[:rank].square().sum()) / all_of if all_of else 1.0


def padded(pair: Pair, rank: int) -> Pair:
    """With rows and columns of zeros where a layer has fewer singular values."""
    (A, B), more = pair, rank - pair[0].shape[0]
    return torch.cat([A, A.new_zeros(more, A.shape[1])]), torch.cat([B, B.new_zeros(B.shape[0], more)], dim=1)


def stored(pair: Pair, dtype: torch.dtype, name: str) -> Pair:
    """Rounded once. Raises UsageError `compress.range` for a number that the type does not reach."""
    A, B = (matrix.to(dtype) for matrix in pair)
    if not bool(torch.isfinite(A).all() and torch.isfinite(B).all()):
        raise UsageError(
            f"numbers of {name} are larger than this number type reaches",
            code="compress.range",
            where="dtype",
            hint="Use bf16 or f32.",
        )
    return A, B


def wanted(part: Part, rank: int | None) -> int:
    rank = part.rank if rank is None else rank
    if not 1 <= rank <= part.rank:
        raise UsageError(
            f"the adapter has rank {part.rank}, which {rank} does not make smaller",
            code="compress.rank",
            where="rank",
            hint=f"Use 1 to {part.rank}.",
        )
    return rank


def refuse_unknown(dtype: str) -> None:
    if dtype not in DTYPES:
        raise UsageError(
            f"there is no number type {dtype!r} for adapters",
            code="compress.dtype",
            where="dtype",
            hint=f"Number types: {', '.join(DTYPES)}.",
        )


def write(made: Compressed, part: Part, folder: Path) -> None:
    """In PEFT's layout, with the scale that the adapter had."""
    rank = next(iter(made.layers.values()))[0].shape[0]
    lowrank.write(folder, part, made.layers, **shape(part.body, rank))


def shape(body: Mapping[str, Any], rank: int) -> dict[str, Any]:
    """Rank and alpha, so that alpha / r (of rsLoRA alpha / √r) stays what it was."""
    share = rank / body["r"]
    alpha = body["lora_alpha"] * (math.sqrt(share) if body.get("use_rslora") else share)
    return {"r": rank, "lora_alpha": int(alpha) if alpha == int(alpha) else alpha}


def size(folder: Path) -> int:
    """Bytes of an adapter's tensors on the disk."""
    return (folder / adapter.WEIGHTS).stat().st_size
