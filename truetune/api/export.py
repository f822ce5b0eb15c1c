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
    format   `mlx`: as mlx_lm loads it; `peft`: as PEFT loads it
    out      a folder that is not there yet, or is empty; a run's own is by default `exports/FORMAT` in the run
    base     the model of an adapter that mlx_lm made, where its files do not say

    The report: {schema, format, of, base: {name, revision}, adapter: bool, truetune, parity: {first, second, tokens,
    largest, mean, tolerance, ok}, stored}. Parity is measured in float32; `stored` says how far mlx_lm is from that
    where it computes in the number type of the stored weights, as it does by itself: {dtype, largest, mean}.

    Raises UsageError and InputError before anything is written, CheckFailed `export.parity` where the two compute
    differently (nothing is left behind), ResourceError.
    """
    from truetune.export import gate, origin

    gate.refuse_format(format)
    found = origin.find(wanted.address(subject), base)
    target = gate.place(found, format, Path(out).expanduser() if out else None)
    report = gate.write(found, format, target)
    return report | {"folder": str(target), "model": str(found.side.model if report["adapter"] else target)}
