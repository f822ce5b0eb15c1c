"""The verb `dataset check`: what a training would make of these rows, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from truetune.api.dataset.settings import Names, encoder, names, settings
from truetune.api.dataset.show import shown
from truetune.api.wanted import refuse_nowhere
from truetune.config import Loaded
from truetune.data.inspector import Inspector
from truetune.data.prepare import Mend, Prepared, prepare
from truetune.data.quality import Finding, Quality
from truetune.errors import TrueTuneError
from truetune.listener import Listener, unheard
from truetune.models.tokenizer import Tokenizer
from truetune.report import dataset as page
from truetune.train.classes import settle

LEVELS = ("error", "warning", "note")
ADVICE = {
    "data.near_duplicate": "`data.dedupe: near` leaves them out; those of a held-out row are on its side.",
    "data.conflicting_answers": "Look which answer is right; a model that learns both gives either.",
    "data.plain_template": "Choose one by name, such as `data.template: chatml`, or keep the plain one.",
    "data.template_date": "Serve with a template that writes no date, or expect other prompts than those learned.",
    "data.template_tokens": "Choose a template that is made for this model: `data.template`.",
    "data.end_not_eos": "Nothing to do here: chat and samples stop there. Elsewhere name it as a stop token.",
    "data.no_eos": "Choose a model whose tokenizer has an end-of-text token, or it will not know when to stop.",
    "data.lost": "Raise data.max_length. `data.too_long: split` loses only what is too long by itself.",
    "data.files_left_out": "Nothing to do; a file that shall be trained on is named by itself in data.path.",
    "data.no_validation": "Add rows, or name a file: data.validation.",
    "data.torn_groups": "Hold out a file of other questions or texts: data.validation.",
    "json.duplicate_key": "Remove one of the two, or give it another name.",
}
"""What to do about the findings of the preparation."""


def dataset_check(
    data: Names,
    model: str | None = None,
    *,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    template: str | None = None,
    train_on: str | None = None,
    max_length: int | None = None,
    too_long: str | None = None,
    dedupe: str | None = None,
    validation: Any = None,
    against: Names = (),
    examples: int = 2,
    estimate: bool = True,
    report: str | Path | None = None,
    folder: Path | None = None,
    listener: Listener = unheard,
) -> dict[str, Any]:
    """Read, render and count all rows as a training would, look for what is wrong with them, and say so.

    data       files, folders or patterns; or a train.yml, whose data and model are checked
    model      whose tokenizer and chat template; None = the starter, or train.yml's
    against    files whose rows must not be learned, such as a test set
    examples   rows that are shown token by token in the result
    estimate   measure a step of a training with these settings, and say how long it would take
    report     where a page (HTML, and Markdown beside it) is written
    The others are keys of train.yml's section `data`.

    JSON-ready: `verdict` (`ok`, `warnings`, `errors`), `rows`, `tokens`, `lengths`, `findings` (each with code, level,
    count, places and what to do), `figures`, `examples`, `estimate`, `report`; `unwritten` is the error
    that kept the page from being written. Raises InputError where no row can be read or `report` has no folder.
    """
    values = {
        "format": format, "columns": columns, "template": template, "train_on": train_on, "max_length": max_length,
        "too_long": too_long, "dedupe": dedupe, "validation": validation,
    }  # fmt: skip
    refuse_nowhere("report", report)
    loaded, foreign = settings(data, model, folder, values), names("against", against)
    tokenizer = encoder(loaded)
    quality = Quality(tokenizer)
    prepared = look(loaded, tokenizer, quality, foreign, listener=listener)
    wrong = list(unlearnable(loaded, prepared))
    result = document(loaded, prepared, [*quality.findings(), *told(prepared), *wrong], quality.figures())
    result["examples"] = shown(loaded, tokenizer, examples)
    result["estimate"] = timed(loaded, prepared, listener) if estimate and trainable(prepared) and not wrong else None
    return result | (pages(result, Path(report)) if report is not None else {})


def pages(result: dict[str, Any], path: Path) -> dict[str, Any]:
    """Where the page stands; where it can't be written, why: what was found out is told all the same."""
    try:
        return {"report": [str(each) for each in page.write(result, path)]}
    except TrueTuneError as error:
        return {"report": [], "unwritten": error.to_json()}
    except OSError as error:
        reason = {"message": (error.strerror or str(error)).lower(), "where": str(path), "hint": ""}
        return {"report": [], "unwritten": {"code": "file.unusable", **reason}}


def look(
    loaded: Loaded,
    tokenizer: Tokenizer,
    inspector: Inspector,
    against: Sequence[str] = (),
    mend: Mend | None = None,
    listener: Listener = unheard,
) -> Prepared:
    """Prepare the rows under the eyes of an inspector."""
    config = loaded.config
    return prepare(
        config.data,
        objective=config.training.objective,
        seed=config.training.seed,
        folder=loaded.folder,
        tokenizer=tokenizer,
        inspector=inspector,
        against=against,
        mend=mend,
        listener=listener,
    )


def document(
    loaded: Loaded, prepared: Prepared, findings: Sequence[Finding], figures: dict[str, Any]
) -> dict[str, Any]:
    """The result of a check, the worst findings first."""
    report, data = prepared.report, loaded.config.data
    found = sorted(findings, key=lambda each: LEVELS.index(each.level))
    worst = found[0].level if found else "note"
    return {
        "verdict": {"error": "errors", "warning": "warnings", "note": "ok"}[worst],
        "files": report["inputs"],
        "model": loaded.config.model.path,
        "template": report["rendering"]["template"],
        "max_length": data.max_length,
        **{key: report[key] for key in ("format", "objective", "rows", "tokens", "supervised", "lengths")},
        "findings": [asdict(each) for each in found],
        "figures": figures,
    }


def told(prepared: Prepared) -> Iterator[Finding]:
    """What the preparation itself found worth saying."""
    for each in prepared.report["findings"]:
        where = [each["where"]] if each.get("where") else []
        yield Finding(
            each["code"],
            each["level"],
            0,
            0.0,
            where,
            each["message"].partition("\n")[0],
            each.get("hint") or ADVICE.get(each["code"], ""),
            [],
        )


def unlearnable(loaded: Loaded, prepared: Prepared) -> Iterator[Finding]:
    """Why a training refuses the labels of these rows."""
    try:
        if trainable(prepared):
            settle(loaded.config, prepared)
    except TrueTuneError as error:
        about, files = error.finding, [source["path"] for source in prepared.report["inputs"]]
        where = files if about.where == "data.path" else [about.where]
        yield Finding(about.code, "error", 0, 0.0, where, about.message, about.hint, [])


def trainable(prepared: Prepared) -> bool:
    """Whether a training with these settings would start, as far as the rows go."""
    return not any(each["level"] == "error" for each in prepared.report["findings"])


def timed(loaded: Loaded, prepared: Prepared, listener: Listener) -> dict[str, Any] | None:
    """Seconds and memory of a training on these rows, from one measured step; None where it can't be trained."""
    from truetune.train import preview, session

    listener("note", {"text": "measuring a step of a training; --no-estimate leaves it out"})
    try:
        measured = preview.preview(session.gather(loaded.config, loaded.folder))
    except TrueTuneError as error:
        listener("warning", {"text": f"the time of a training is not estimated: {error}"})
        return None
    figures = measured["measured"]
    return {
        "seconds": figures["seconds"],
        "tokens_per_second": figures["tokens_per_second"],
        "peak_memory": figures["peak_memory"],
        "engine": figures["engine"],
        "steps": measured["plan"]["steps"],
        "epochs": loaded.config.training.epochs,
    }
