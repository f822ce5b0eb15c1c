"""The verb `dataset prepare`: whatever people have, as clean rows in one file."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace as replaced
from pathlib import Path
from typing import Any

from truetune.api.dataset.check import document, look, pages, told
from truetune.api.dataset.kept import Keeper, Places, aside
from truetune.api.dataset.settings import Names, encoder, names, settings
from truetune.api.dataset.show import shown
from truetune.api.wanted import refuse_nowhere
from truetune.config import Loaded, load
from truetune.data.prepare import Prepared, find_format
from truetune.data.quality import Quality
from truetune.data.sources import Source, find
from truetune.errors import InputError, UsageError
from truetune.listener import Listener, unheard

RESETS = {"format": "auto", "columns": "null", "weights": "null"}
"""Settings of the files that were read, which the prepared one does not need."""
EXAMPLES = 2
"""Rows that the page shows token by token."""


def dataset_prepare(
    data: Names,
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
    against: Names = (),
    report: bool = False,
    replace: bool = False,
    folder: Path | None = None,
    listener: Listener = unheard,
) -> dict[str, Any]:
    """Read the rows as a training would, and write those that can be learned to `out`.

    out      .jsonl, .json, .csv or .parquet; rows in the natural notation of their shape (`messages`, `text`, …). In
             .jsonl and .json, `origin` says where each row came from
    split    rows for `NAME.validation.SUFFIX` beside it: a share (0.1, "10%") or a number
    clean    mend broken characters, control characters and white space (`truetune.data.quality.clean`)
    report   write `NAME.report.html` and `NAME.report.md`
    replace  files that are there
    The others are those of `dataset_check`. What is left out stands in `NAME.rejects.jsonl`, with its reason.

    Of a train.yml, rows that also stand in its validation file are left out, and weights are left to the training.

    JSON-ready: the result of `dataset_check`, and `out`, `validation`, `rejects`, `report`, `mended`, `next` (the
    command that trains on the rows). Raises InputError (`data.out_exists`, `data.no_folder`, `data.broken_file`, and
    what reading raises), UsageError (`data.out`, `data.split`), ResourceError `data.write`.
    """
    learning = {"template": template, "train_on": train_on, "max_length": max_length, "too_long": too_long}
    values = {**learning, "format": format, "columns": columns, "dedupe": dedupe, "validation": split}
    refuse_nowhere("out", out)
    given, target = settings(data, model, folder, values), Path(out)
    measured, foreign = validation(given, split), names("against", against)
    loaded = written_once(given, split, listener)
    options = loaded.config.data
    files, places = find(options.paths, loaded.folder, options.split), Places(target, split is not None)
    places.check((file.path for file in files), replace, report)
    result = written(loaded, files, places, [*measured, *foreign], clean, listener)
    held = result["validation"] or (given.config.data.validation if measured else None)
    result["next"] = following(given, model, target, learning, held)
    return result | (pages(result, places.page) if report else {"report": []})


def written(
    loaded: Loaded, files: list[Source], places: Places, against: list[str], clean: bool, listener: Listener
) -> dict[str, Any]:
    """Write the rows: the result of a check of them, and where they stand."""
    tokenizer, form = encoder(loaded), find_format(loaded.config.data, files)
    quality = Quality(tokenizer)
    with aside() as notes:
        keeper = Keeper(notes, quality, form, places.out.suffix, clean)
        prepared = look(loaded, tokenizer, keeper, against, keeper.mend if keeper.mends else None, listener)
        refuse_unheld(quality, places.out)
        refuse_broken(prepared)
        where = places.fill(prepared, keeper)
    result = document(loaded, prepared, [*quality.findings(), *told(prepared)], quality.figures()) | where
    result |= {"mended": dict(keeper.mended), "mended_rows": keeper.mended_rows, "estimate": None}
    return result | {"examples": shown(loaded, tokenizer, EXAMPLES)}


def validation(loaded: Loaded, split: Any) -> list[str]:
    """The files that a train.yml measures on: their rows must not be learned. Raises UsageError `data.split`."""
    named = load(loaded.path).config.data.validation if loaded.path else None
    if not isinstance(named, str) or named == "auto":
        return []
    if split is not None:
        raise UsageError(
            f"the validation rows are a file already: {named}",
            code="data.split",
            where=str(loaded.path),
            hint="Leave out --split, or take data.validation out of the file.",
        )
    return [named] if "://" in named else [str(file.path) for file in find([named], loaded.folder, "validation")]


def written_once(loaded: Loaded, split: Any, listener: Listener) -> Loaded:
    """The settings for rows that are written, not trained: each stands in the file once, and none is held out unless
    it is asked for."""
    data = loaded.config.data
    if data.weights and set(data.weights) != {1.0}:
        listener("warning", {"text": "data.weights are left to the training: each row is written once"})
    changed = {"weights": None, **({"validation": None} if split is None else {})}
    config = loaded.config.model_copy(update={"data": data.model_copy(update=changed)})
    return replaced(loaded, config=config)


def following(loaded: Loaded, model: str | None, out: Path, learning: Mapping[str, Any], held: Any) -> str:
    """The command that trains on the rows as they were prepared, `held` to measure on."""
    config = [str(loaded.path)] if loaded.path else ["--model", model or loaded.config.model.path]
    other = ["--model", model] if loaded.path and model else []
    keys = {key: value for key, value in {**learning, "validation": held}.items() if value is not None}
    if loaded.path:  # what it says about the files that were read
        keys = {key: value for key, value in RESETS.items() if f"data.{key}" in loaded.explicit} | keys
    sets = [word for key, value in keys.items() for word in ("--set", f"data.{key}={value}")]
    return shlex.join(["ft", "train", *config, *other, "--data", str(out), *sets])


def refuse_unheld(quality: Quality, out: Path) -> None:
    """Raises InputError `data.notation` where all rows are of a kind that this file can't hold."""
    if not quality.rows and (unheld := quality.reasons.get("data.notation")) and len(quality.reasons) == 1:
        name = out.with_suffix(".jsonl").name
        raise InputError(unheld.examples[0], code="data.notation", where=str(out), hint=f"Name it {name}.")


def refuse_broken(prepared: Prepared) -> None:
    """Rows behind a break can't be read, so they would be lost unseen; of no rows there is no file. Raises InputError
    `data.broken_file`, `data.no_rows`."""
    for found in prepared.report["findings"]:
        if found["code"] in ("data.broken_file", "data.no_rows"):
            raise InputError(found["message"], code=found["code"], where=found["where"], hint=found["hint"])
