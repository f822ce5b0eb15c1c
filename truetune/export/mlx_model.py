"""To mlx_lm as a whole model: the adapter folded into its base, in a number type of choice, quantised by mlx_lm's own
converter."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from shlex import quote
from typing import Any

from mlx_lm.convert import convert

from truetune.errors import UsageError
from truetune.export import files, merged, mlx
from truetune.export.merged import plan
from truetune.export.origin import MLX_LM, Origin
from truetune.export.run_mlx import MlxLm
from truetune.export.runtime import Options, Part, Runtime
from truetune.models import facts

__all__ = ["QUANTS", "check", "parts", "plan", "reduce", "runtime", "usage", "write"]

QUANTS = ("4bit", "8bit", "bf16", "f16", "f32")
BITS = {"4bit": 4, "8bit": 8}
TYPES = {"bf16": "bfloat16", "f16": "float16"}
GROUPS = (64, 32)
"""Numbers of a row that share a scale, as mlx_lm knows them; the first that divides every row is taken."""


def check(origin: Origin, options: Options) -> None:
    """Raises UsageError `export.same`, `export.unmergeable`, `export.groups`, InputError `export.lacks`."""
    if origin.side.engine == MLX_LM:
        raise UsageError(
            "this adapter is in mlx_lm's layout already",
            code="export.same",
            where=origin.name,
            hint="Let mlx_lm fold it: mlx_lm.fuse; or export it as PEFT's first: --format peft.",
        )
    if origin.side.adapter:
        merged.check(origin, options)
    mlx.refuse_lacking(origin)
    if options.quant in BITS:
        group(origin)


def group(origin: Origin) -> int:
    """Numbers that share a scale. Raises UsageError `export.groups` where no row can be divided so."""
    model = facts.read(origin.side.model)
    widths = (model.hidden, model.intermediate, model.heads * model.head_dim)
    found = next((size for size in GROUPS if not any(width % size for width in widths)), 0)
    if not found:
        raise UsageError(
            f"MLX quantises {GROUPS[-1]} numbers at a time, which do not divide this model's rows of {model.hidden}",
            code="export.groups",
            where="quant",
            hint="Store it as it is: --quant bf16.",
        )
    return found


def write(origin: Origin, folder: Path, options: Options) -> None:
    """The whole model in float32, or as its base stores it where there is no adapter to fold."""
    if origin.side.adapter:
        merged.write(origin, folder, Options("f32"))
    else:
        files.model(origin.side.model, folder)
        files.spoken(origin, folder)


def reduce(origin: Origin, folder: Path, options: Options) -> str | None:
    """By mlx_lm's converter; its own copies of tokenizer and template are left behind."""
    if options.quant == "f32":
        return None
    aside = folder / "converted"
    bits = BITS.get(options.quant or "")
    how: dict[str, Any] = (
        {"quantize": True, "q_bits": bits, "q_group_size": group(origin), "dtype": "float32"} if bits else {}
    )
    with redirect_stdout(io.StringIO()):
        convert(str(folder), str(aside), **(how or {"dtype": TYPES[options.quant or "bf16"]}))
    for old in (*folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json")):
        old.unlink()
    for new in (*aside.glob("*.safetensors"), *aside.glob("*.safetensors.index.json"), aside / "config.json"):
        shutil.move(new, folder / new.name)
    shutil.rmtree(aside)
    return options.quant


def runtime(origin: Origin, folder: Path, exact: bool) -> Runtime:
    """What is stored narrower is computed with as mlx_lm does by itself."""
    return MlxLm(folder, None, exact)


def parts(origin: Origin, folder: Path) -> Iterator[Part] | None:
    return merged.parts(origin, folder) if origin.side.adapter else None


def usage(origin: Origin, place: Path) -> str:
    return f'mlx_lm.generate --model {quote(str(place))} --prompt "…"'
