"""The verb `dataset convert`: the same rows in another notation or kind of file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from truetune.api.dataset.settings import Names, settings
from truetune.api.wanted import refuse_nowhere
from truetune.data import convert, remote

TEXT = ".jsonl"


def dataset_convert(
    data: Names,
    to: str,
    out: str | Path | None = None,
    *,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    replace: bool = False,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Write the rows of `data` as `to`: a notation (`openai`, `sharegpt`, …) or a kind of file (`parquet`, …).

    `out` is by default beside the first file: `rows.json` becomes `rows.openai.jsonl` or `rows.parquet`. A file that is
    there is kept unless `replace`. JSON-ready: `out`, `notation`, `format`, `inputs`, `rows` {read, written, rejected},
    `rejects`, `sha256`. Raises what `truetune.data.convert.convert` does.
    """
    loaded = settings(data, None, folder, {"format": format, "columns": columns})
    options = loaded.config.data
    refuse_nowhere("out", out)
    target = Path(out) if out is not None else _beside(options.paths[0], to)
    return convert.convert(
        options.paths,
        to,
        target,
        loaded.folder,
        format=options.format,
        columns=options.columns,
        split=options.split,
        replace=replace,
    )


def _beside(name: str, to: str) -> Path:
    """Beside a file; of an address, where you stand."""
    path = Path(remote.shown(name).rpartition("/")[2] if "://" in name else name)
    stem = path.name.partition(".")[0] or path.name
    return path.with_name(f"{stem}.{to}" if to in convert.FILES else f"{stem}.{to}{TEXT}")
