"""The verb `dataset prepare`: whatever people have, as clean rows in one file."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from truetune.api.dataset.check import Listener, document, look, quiet, told
from truetune.api.dataset.kept import Keeper, Places
from truetune.api.dataset.settings import encoder, settings
from truetune.api.dataset.show import shown
from truetune.data.prepare import Prepared, find_format
from truetune.data.quality import Quality
from truetune.data.sources import find
from truetune.errors import InputError
from truetune.report import dataset as page

EXAMPLES = 2
"""Rows that the page shows token by token."""


def dataset_prepare(
    data: str | Sequence[str],
    out: str | Path,
    model: str | None = None,
    *,
    split: Any = None,
    clean: bool = False,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    template: str | None = None,
    train_on: str | None = None,
    max_length: int | None = None,
    too_long: str | None = None,
    dedupe: str | None = None,
    against: Sequence[str] = (),
    report: bool = False,
    replace: bool = False,
    folder: Path | None = None,
    listener: Listener = quiet,
) -> dict[str, Any]:
    """Read the rows as a training would, and write those that can be learned to `out`.

    out      .jsonl, .json, .csv or .parquet; rows in the natural notation of their shape (`messages`, `text`, …). In
             .jsonl and .json, `origin` says where each row came from
    split    rows for `NAME.validation.SUFFIX` beside it: a share (0.1, "10%") or a number
    clean    mend broken characters, control characters and white space (`truetune.data.quality.clean`)
    report   write `NAME.report.html` and `NAME.report.md`
    replace  files that are there
    The others are those of `dataset_check`. What is left out stands in `NAME.rejects.jsonl`, with its reason.

    JSON-ready: the result of `dataset_check`, and `out`, `validation`, `rejects`, `report`, `mended`. Raises InputError
    (`data.out_exists`, `data.broken_file`, and what reading raises), UsageError `data.out`, ResourceError `data.write`.
    """
    values = {
        "format": format, "columns": columns, "template": template, "train_on": train_on, "max_length": max_length,
        "too_long": too_long, "dedupe": dedupe, "validation": "none" if split is None else split,
    }  # fmt: skip
    loaded, target = settings(data, model, folder, values), Path(out)
    options = loaded.config.data
    files, places = find(options.paths, loaded.folder, options.split), Places(target, split is not None)
    places.check((file.path for file in files), replace, report)
    tokenizer, form = encoder(loaded), find_format(options, files)
    quality = Quality(tokenizer)
    with tempfile.TemporaryFile() as notes:
        keeper = Keeper(notes, quality, form, target.suffix, clean)
        prepared = look(loaded, tokenizer, keeper, against, keeper.mend if keeper.mends else None, listener)
        refuse_broken(prepared)
        written = places.fill(prepared, keeper)
    result = document(loaded, prepared, [*quality.findings(), *told(prepared)], quality.figures()) | written
    result |= {"mended": dict(keeper.mended), "mended_rows": keeper.mended_rows, "estimate": None}
    result["examples"] = shown(loaded, tokenizer, EXAMPLES)
    result["report"] = [str(path) for path in page.write(result, places.page)] if report else []
    return result


def refuse_broken(prepared: Prepared) -> None:
    """Rows behind a break can't be read, so they would be lost unseen; of no rows there is no file. Raises InputError
    `data.broken_file`, `data.no_rows`."""
    for found in prepared.report["findings"]:
        if found["code"] in ("data.broken_file", "data.no_rows"):
            raise InputError(found["message"], code=found["code"], where=found["where"], hint=found["hint"])
