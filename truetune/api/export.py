"""The verb `export`: what was trained, in the layout that another program loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from truetune.api import wanted


def export(
    subject: Any = "last", *, format: str, out: str | Path | None = None, base: str | None = None
) -> dict[str, Any]:
    """Write an export and compare what its program computes with what was trained: {folder, model, and the report}.

    subject  a run (`last`, an id, `RUN:best`, what `train` returned), an adapter's folder, or a model
    format   `mlx`: as mlx_lm loads it; `peft`: as PEFT loads it; `merged`: a whole model, the adapter folded in
    out      a folder that is not there yet, or is empty; a run's own is by default `exports/FORMAT` in the run
    base     the model of an adapter that mlx_lm made, where its files do not say

    The report: {schema, format, of, base: {name, revision}, adapter: bool, truetune, parity: {first, second, tokens,
    largest, mean, tolerance, ok}, stored}. Parity is measured in float32; `stored` says how far the number type of the
    stored weights is from that, where it is another: {dtype, largest, mean}.

    Raises UsageError and InputError before anything is written, CheckFailed `export.parity` where the two compute
    differently and `export.rounded` (nothing is left behind), ResourceError.
    """
    from truetune.export import gate, origin

    gate.refuse_format(format)
    found = origin.find(wanted.address(subject), base)
    target = gate.place(found, format, Path(out).expanduser() if out else None)
    report = gate.write(found, format, _target(gate.TARGETS[format]), target)
    return report | {"folder": str(target), "model": str(found.side.model if report["adapter"] else target)}


def _target(name: str) -> Any:
    """The module of a format. Raises ResourceError `export.not_installed`."""
    from importlib import import_module

    from truetune.engines import keep_out_kernels
    from truetune.errors import ResourceError

    keep_out_kernels()  # PEFT imports bitsandbytes
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ResourceError(
            f"this format needs {error.name}, which is not installed",
            code="export.not_installed",
            where="format",
            hint=f'Install it: pip install "truetune[{error.name}]".',
        ) from None
