"""To mlx_lm: an adapter in its own layout, beside the tokenizer and template it was trained with; a model as it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from shlex import quote

from truetune import engines
from truetune.engines import adapter as adapters
from truetune.errors import InputError, UsageError
from truetune.export import files
from truetune.export.origin import MLX_LM, Origin
from truetune.export.run_mlx import MlxLm
from truetune.export.runtime import Options, Part, Runtime
from truetune.models import facts

QUANTS: tuple[str, ...] = ()
STORED = {"F16": "float16", "BF16": "bfloat16"}


def check(origin: Origin, options: Options) -> None:
    """Raises UsageError `export.same`, `export.packed`, InputError `export.lacks`."""
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
            hint="Export the whole model: --format mlx --quant 4bit; or the adapter as PEFT's: --format peft.",
        )
    if side.adapter and adapters.read_config(side.adapter, adapters.KINDS)["peft_type"] != "LORA":
        raise InputError(
            "mlx_lm has only adapters of the kind lora",
            code="export.lacks",
            where=origin.name,
            hint="Export it as PEFT's: --format peft.",
        )
    refuse_lacking(origin)


def refuse_lacking(origin: Origin) -> None:
    """Raises InputError `export.lacks` for a model that MLX computes otherwise."""
    lacking = engines.module("mlx").lacks(origin.side.model)
    if lacking:
        raise InputError(
            f"MLX does not compute {lacking} as transformers does",
            code="export.lacks",
            where=origin.name,
            hint="Export it as PEFT's: --format peft.",
        )


def write(origin: Origin, folder: Path, options: Options) -> None:
    """Into an existing folder. Raises what the exchange raises."""
    side = origin.side
    if side.adapter is None:
        files.model(side.model, folder)
    else:
        engines.module("mlx").exchange.to_mlx_lm(side.adapter, folder)
        files.spoken(origin, folder)


def reduce(origin: Origin, folder: Path, options: Options) -> str | None:
    """mlx_lm computes in the number type of the stored weights, if nobody tells it otherwise."""
    return STORED.get(facts.read(origin.side.model).dtype)


def runtime(origin: Origin, folder: Path, exact: bool) -> Runtime:
    adapter = origin.side.adapter is not None
    return MlxLm(origin.side.model if adapter else folder, folder if adapter else None, exact)


def parts(origin: Origin, folder: Path) -> Iterator[Part] | None:
    return None


def usage(origin: Origin, place: Path) -> str:
    model = origin.base.name if origin.side.adapter else place
    adapter = f" --adapter-path {quote(str(place))}" if origin.side.adapter else ""
    return f'mlx_lm.generate --model {quote(str(model))}{adapter} --prompt "…"'
