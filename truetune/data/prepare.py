"""From files to examples, with an account of every row: `prepare` is the one verb of this package.

read = used + rejected + deduplicated + contaminated + too_long + unsupervised + sampled_out
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from truetune.data import cache, formats, objectives, readers
from truetune.data.cache import Entry, Examples, Rejects
from truetune.data.contrast import Contrasted
from truetune.data.dedupe import FOREIGN, TRAIN, VALIDATION
from truetune.data.formats import Format
from truetune.data.inspector import Inspector
from truetune.data.intake import Intake, survey
from truetune.data.intake import read as read
from truetune.data.job import Job, Options, plan
from truetune.data.ledger import OBJECTIVES, Ledger
from truetune.data.reading import packed
from truetune.data.reading.file import File
from truetune.data.rows import Content, Reject, Row, RowError
from truetune.data.sources import Source
from truetune.data.weigh import weighed
from truetune.errors import InputError, UsageError
from truetune.listener import Listener, unheard
from truetune.models.template import Template
from truetune.models.tokenizer import Tokenizer

KINDS = {
    "sft": "conversations",
    "pretrain": "plain texts",
    "dpo": "preference pairs",
    "kto": "rated answers",
    "classification": "labelled texts",
}
"""What rows for an objective are."""

Mend = Callable[[int, Content], Content]
"""Repairs of a content, beside what its row is for (`dedupe.TRAIN`, …). Raises RowError for a row that is refused."""


@dataclass(frozen=True)
class Prepared:
    """What a run trains and measures on. `report` is JSON-ready; `rejects` are the rows not used, each with why."""

    train: Examples
    validation: Examples
    objective: str
    report: dict[str, Any]
    rejects: Rejects


def prepare(
    options: Options,
    *,
    objective: str,
    seed: int,
    folder: Path,
    tokenizer: Tokenizer,
    template: Template | None = None,
    inspector: Inspector | None = None,
    against: Sequence[str] = (),
    mend: Mend | None = None,
    listener: Listener = unheard,
) -> Prepared:
    """Read, check, render and split the rows, or take them from the cache.

    `objective` is `auto` or one of `truetune.data.objectives`; `folder` is where relative paths start; `template` goes
    before `options.template`. Rows that also stand in the files `against`, or nearly, are not trained. With an
    `inspector` (which `mend` needs) this is a check: it sees every row, and what forbids a training, such as
    too many bad rows or no good one, is a finding of the level `error`.
    Raises InputError with a code `data.…` for input that can't be used, UsageError (`data.objective`) for an objective
    that does not fit the rows.
    """
    given = {"seed": seed, "folder": folder, "tokenizer": tokenizer, "template": template, "against": against}
    job = plan(options, objective=objective, **given)  # type: ignore[arg-type]
    entry = None if inspector else cache.find(job.key)
    entry = entry or _build(job, inspector, mend, listener)
    learned = entry.report["objective"] if objective == "auto" else objective
    train, validation = entry.train, entry.validation
    if learned == "kto":
        train, validation = Contrasted(train), Contrasted(validation)
    return Prepared(train, validation, learned, entry.report, entry.rejects)


def find_format(options: Options, files: Sequence[Source], every: bool = False) -> Format:
    """The shape of the rows, as the user says or as most rows of each file have it. With `every`, lines of which none
    is a row have a shape as well, so that each can be told; a JSON document without a row has none. Raises InputError.
    """
    if options.format != "auto":
        return formats.named(options.format, options.columns)
    found = {source.name: form for source in files if (form := _told(source, options.columns)) is not None}
    if len(found) == len(files) or len({form.shape.name for form in found.values()}) > 1:
        return formats.joined(found)
    values = chain.from_iterable(map(_values, files))
    first = next(values, None)
    if first is None:
        error = _no_row(files)
        lines = any(packed.suffix(source.path) != ".json" for source in files)
        if every and lines and error.finding.code == "data.no_rows" and any(True for _ in read(files)):
            return _unknown()
        raise error
    return formats.detect(chain([first], values), options.columns, ", ".join(source.name for source in files))


def _unknown() -> Format:
    form = formats.named("messages")
    return replace(form, shape=replace(form.shape, name="unknown"), detected=True, share=0.0)


def _told(source: Source, columns: Mapping[str, str] | None) -> Format | None:
    """The shape of one file's rows; None where they have none that is known, or there are none."""
    try:
        return formats.detect(_values(source), columns)
    except InputError:
        return None


def _values(source: Source) -> Iterator[dict[str, Any]]:
    return (value for _, value, _ in readers.sample(source.path) if not isinstance(value, RowError))


def _build(job: Job, inspector: Inspector | None, mend: Mend | None, listener: Listener) -> Entry:
    """1. the shapes, 2. what rows have to do with each other, 3. rows to examples, 4. is it enough, 5. the split,
    6. the report, 7. into the cache."""
    forms = {
        purpose: replace(form, mend=partial(mend, purpose) if mend else None)
        for purpose, form in _forms(job, inspector is not None).items()
    }
    ledger = Ledger(objective=_objective(job, forms[TRAIN]))
    with cache.writing(job.key) as writer, tempfile.TemporaryDirectory(dir=writer.folder) as aside:
        found = survey(job, forms, Path(aside), listener)
        Intake(job, forms, ledger, writer, found, inspector, listener).run(Path(aside))
        wrong = _wrong(job, ledger, inspector)
        split = ledger.split(found, job.options.validation if not job.validation else None, job.seed)
        order = ledger.classes.order
        weights = partial(weighed, survey=found, sources=job.train, seed=job.seed)
        report = ledger.report(forms[TRAIN], job, found, split, writer.finish(split.held, weights, order))
        report["findings"] += [*forms[TRAIN].unused.findings(), *wrong]
        # A check that found too much wrong, or mended rows, must not become the data of a training.
        key = cache.key([job.key, "checked"]) if wrong or mend else job.key
        return cache.commit(writer, key, report)


def _forms(job: Job, every: bool) -> dict[int, Format]:
    """The shapes of the rows, by their purpose; files that are only compared with may have their own."""
    form = find_format(job.options, job.train, every)
    if job.options.format == "auto":
        told = {source.name: _told(source, job.options.columns) for source in job.validation}
        others = {file: its for file, its in told.items() if its and its.shape.name != form.shape.name}
        form = replace(form, others={**form.others, **others})
    return {TRAIN: form, VALIDATION: form, FOREIGN: _foreign(job.against) if job.against else form}


def _foreign(files: Sequence[Source]) -> Format:
    return formats.detect(row.value for row in read(files) if isinstance(row, Row))


def _wrong(job: Job, ledger: Ledger, inspector: Inspector | None) -> list[dict[str, str]]:
    """What forbids training on these rows: raised, but a finding in a check."""
    try:
        ledger.check(job.options, job.train, job.validation)
    except InputError as error:
        if inspector is None:
            raise
        about = error.finding
        told = {"code": about.code, "message": about.message, "where": about.where, "hint": about.hint}
        return [{**told, "level": "error"}]
    return []


def _objective(job: Job, form: Format) -> str:
    """The kind of the rows. Raises UsageError (`data.objective`) where the objective takes others."""
    found = _kind(job, form)
    if job.objective != "auto" and objectives.of(job.objective).rows != found:
        wanted, fitting = KINDS[objectives.of(job.objective).rows], objectives.fitting(found)
        raise UsageError(
            f"objective `{job.objective}` takes {wanted}, and the rows are {KINDS[found]}",
            code="data.objective",
            where="training.objective",
            hint=f"Use `objective: {found}`{''.join(f', `{name}`' for name in fitting[1:])} or `auto`.",
        )
    return found


def _kind(job: Job, form: Format) -> str:
    """What the first row that can be read is for."""
    for row in read(job.train):
        if isinstance(row, Row):
            try:
                return OBJECTIVES[type(form.read(row.value))]
            except RowError:
                continue
    return "pretrain" if form.shape.name == "text" else "sft"


def _no_row(files: Sequence[Source]) -> InputError:
    """The error for files without a single object: empty ones, or nothing but bad rows."""
    where = ", ".join(source.name for source in files)
    rejects = (row for row in read(files) if isinstance(row, Reject))
    first = next(rejects, None)
    if first is None:
        return _empty(files, where)
    broken = next((row for row in chain([first], rejects) if _is_syntax(row)), None)
    if broken is not None:
        return InputError(broken.reason, code="json.syntax", where=broken.where, hint="Mend the file here.")
    hint = "Each row must be a JSON object, or a CSV record under a header."
    if first.code == "data.encoding":
        hint = "Save the file as UTF-8."
    return InputError(
        f"no row can be read; the first: {first.reason}", code="data.no_rows", where=first.where, hint=hint
    )


def _is_syntax(row: Reject) -> bool:
    """Whether it breaks a file that is one JSON document."""
    return row.code in ("json.syntax", "data.broken_file") and packed.suffix(Path(row.file)) == ".json"


def _empty(files: Sequence[Source], where: str) -> InputError:
    """`[]` is JSON without rows; nothing at all is no JSON."""
    hint = "Is it the right file?"
    if all(packed.suffix(source.path) == ".json" for source in files):
        if any(File(source.path).head().strip() for source in files):
            return InputError("there is no row in it", code="data.no_rows", where=where, hint=hint)
        return InputError("the file is empty, which is no JSON", code="json.syntax", where=where, hint=hint)
    return InputError("there is no row in it", code="data.empty", where=where, hint=hint)
