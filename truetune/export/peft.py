"""To PEFT and all that reads its layout: an adapter with the tokenizer and template it was trained with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from truetune import engines
from truetune.engines import adapter as adapters
from truetune.engines import family
from truetune.engines.torch import files as tensors
from truetune.errors import UsageError
from truetune.export import files
from truetune.export.origin import MLX_LM, Origin
from truetune.export.run_transformers import Transformers
from truetune.export.runtime import Options, Part, Runtime
from truetune.train import card

QUANTS: tuple[str, ...] = ()


def check(origin: Origin, options: Options) -> None:
    """Raises UsageError `export.no_adapter`, InputError `adapter.damaged` for what mlx_lm made."""
    if origin.side.engine == MLX_LM and origin.side.adapter:
        engines.module("mlx").exchange.read_config(origin.side.adapter / adapters.CONFIG)
    if origin.side.adapter is None and not origin.planned:
        raise UsageError(
            "this is a whole model, and PEFT's layout is one of adapters",
            code="export.no_adapter",
            where=origin.name,
            hint="Its folder is what transformers loads; for an adapter train with method.type lora.",
        )


def write(origin: Origin, folder: Path, options: Options) -> None:
    """Into an existing folder. Raises what the exchange raises."""
    side = origin.side
    assert side.adapter is not None
    if side.engine == MLX_LM:
        base = origin.base.name if origin.base.kind == "hub" else str(origin.base.folder)
        engines.module("mlx").exchange.from_mlx_lm(side.adapter, folder, base=base)
    else:
        files.adapter(side.adapter, folder)
    files.spoken(origin, folder)


def reduce(origin: Origin, folder: Path, options: Options) -> None:
    """An adapter is stored as it was trained."""


def runtime(origin: Origin, folder: Path, exact: bool) -> Runtime:
    return Transformers(folder, base=origin.side.model, bits=origin.side.bits, rows=rows(folder))


def rows(adapter: Path) -> int:
    """How many rows the embedding must have for the tokens that an adapter brings; 0 where it brings none."""
    found = family.indices(adapters.read_config(adapter, adapters.KINDS).get("trainable_token_indices"))
    return max((number + 1 for ids in found.values() for number in ids), default=0)


def parts(origin: Origin, folder: Path) -> Iterator[Part] | None:
    """Its tensors beside the trained ones; None where mlx_lm trained them."""
    if origin.side.engine == MLX_LM or origin.side.adapter is None:
        return None
    wanted, found = (
        tensors.load(place / adapters.WEIGHTS, "adapter.damaged") for place in (origin.side.adapter, folder)
    )
    nothing, names = torch.zeros(0), sorted(wanted.keys() | found.keys())
    pairs = ((name, wanted.get(name, nothing), found.get(name, nothing)) for name in names)
    return (Part(name, one.float().numpy(), other.float().numpy(), adapted=True) for name, one, other in pairs)


def usage(origin: Origin, place: Path) -> str:
    """As the card of a training says it: the base at its revision, packed as it was."""
    side, subject, base = origin.side, origin.subject, origin.base
    model = {"name": base.name, "kind": base.kind, "revision": base.revision, "folder": str(base.folder)}
    method = {"type": "qlora" if side.bits else "lora", "bits": side.bits}
    config = {"training": {"objective": subject.objective if subject else "sft"}, "method": method}
    grown = origin.run.resolved.get("new_tokens") if origin.run else None
    return card.usage({"model": model, "config": config, "new_tokens": grown}, str(place))
