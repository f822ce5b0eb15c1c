"""From files to examples, with an account of every row: `prepare` is the one verb of this package.

read = used + rejected + deduplicated + contaminated + too_long + unsupervised
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from truetune.data import cache, formats, readers
from truetune.data.cache import Entry, Examples, Rejects
from truetune.data.dedupe import Dedupe
from truetune.data.fit import fit
from truetune.data.formats import Format
from truetune.data.job import Job, Options, plan
from truetune.data.ledger import Ledger
from truetune.data.reading import packed
from truetune.data.reading.file import File
from truetune.data.reading.notes import Notes, ignore
from truetune.data.render import Renderer
from truetune.data.rows import Content, Reject, Row, RowError
from truetune.data.sources import Source
from truetune.errors import InputError, UsageError
from truetune.models.template import Template
from truetune.models.tokenizer import Tokenizer

CHUNK = 256
"""Rows that are encoded in one parallel call."""


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
) -> Prepared:
    """Read, check, render and split the rows, or take them from the cache.

    `objective` is `auto`, `sft` or `pretrain`; `folder` is where relative paths start; `template` goes before
    `options.template`. Raises InputError with a code `data.…` for input that can't be used, UsageError
    (`data.objective`) for an objective that does not fit the rows.
    """
    job = plan(options, objective=objective, seed=seed, folder=folder, tokenizer=tokenizer, template=template)
    entry = cache.find(job.key) or _build(job)
    return Prepared(entry.train, entry.validation, entry.report["objective"], entry.report, entry.rejects)


def read(files: Sequence[Source], start: int = 0, notes: Notes | None = None) -> Iterator[Row | Reject]:
    """All rows of the files, numbered from `start`; `notes` takes what should be known beside them."""
    index = start
    for source in files:
        for line, value, raw in readers.read(source.path, notes.of(source.name) if notes else ignore):
            if isinstance(value, RowError):
                yield Reject(index, source.name, line, value.code, value.reason, raw)
            else:
                yield Row(index, source.name, line, value)
            index += 1


def find_format(options: Options, files: Sequence[Source]) -> Format:
    """The shape of the rows, as the user says or as most rows have it. Raises InputError."""
    if options.format != "auto":
        return formats.named(options.format, options.columns)
    values = (row.value for row in read(files) if isinstance(row, Row))
    first = next(values, None)
    if first is None:
        raise _no_row(files)
    return formats.detect(chain([first], values), options.columns)


def _build(job: Job) -> Entry:
    """1. the shape, 2. rows to examples, 3. is it enough, 4. the split, 5. the report, 6. into the cache."""
    form = find_format(job.options, job.train)
    ledger = Ledger(objective=_objective(job, form))
    with cache.writing(job.key) as writer:
        _Intake(job, form, ledger, writer).run()
        ledger.check(job.options, job.train, job.validation)
        held_out = ledger.split(job.options.validation if not job.validation else None, job.seed)
        index = writer.finish(held_out)
        report = ledger.report(form, job, index)
        return cache.commit(writer, job.key, report)


class _Intake:
    """Rows to examples: each row ends as an example or in the rejects, and the ledger counts it once."""

    def __init__(self, job: Job, form: Format, ledger: Ledger, writer: cache.Writer) -> None:
        self.job, self.form, self.ledger, self.writer = job, form, ledger, writer
        self.renderer = Renderer(job.tokenizer, job.template, job.options.train_on)
        self.dedupe = Dedupe(job.options.dedupe == "exact", frozenset(self._held_out()))

    def run(self) -> None:
        index = self._files(self.job.train, 0, train=True)
        self._files(self.job.validation, index, train=False)

    def _files(self, files: Sequence[Source], index: int, train: bool) -> int:
        """Take in all rows of one side; returns the index after the last."""
        chunk: list[tuple[Row, Content]] = []
        for row in read(files, index, self.ledger.notes):
            index = row.index + 1
            self.ledger.read(row.file)
            if (content := self._content(row, train)) is not None:
                assert isinstance(row, Row)
                chunk.append((row, content))
            if len(chunk) == CHUNK:
                self._render(chunk, train)
                chunk = []
        self._render(chunk, train)
        return index

    def _content(self, row: Row | Reject, train: bool) -> Content | None:
        if isinstance(row, Reject):
            self._refuse(row)
            return None
        try:
            content = self.form.read(row.value)
            self.dedupe.check(row, content, train)
        except RowError as error:
            self._refuse(row.reject(error))
            return None
        return content

    def _render(self, chunk: list[tuple[Row, Content]], train: bool) -> None:
        results = self.renderer.chunk([content for _, content in chunk])
        for (row, content), result in zip(chunk, results, strict=True):
            try:
                if isinstance(result, RowError):
                    raise result
                fitted = fit(result, self.job.options.max_length, self.job.options.too_long)
            except RowError as error:
                self._refuse(row.reject(error))
                continue
            for part in fitted.parts:
                self.writer.add(part, row.index)
            self.ledger.use(row.index, content.digest, result, fitted, train)

    def _refuse(self, reject: Reject) -> None:
        self.writer.reject(reject)
        self.ledger.refuse(reject)

    def _held_out(self) -> Iterator[bytes]:
        """Digests of the explicit validation rows."""
        for row in read(self.job.validation):
            if isinstance(row, Row):
                try:
                    yield self.form.read(row.value).digest
                except RowError:
                    continue


def _objective(job: Job, form: Format) -> str:
    """What the shape of the rows allows. Raises UsageError (`data.objective`)."""
    found = "pretrain" if form.shape.name == "text" else "sft"
    if job.objective not in ("auto", found):
        kind = "plain texts" if found == "pretrain" else "conversations"
        raise UsageError(
            f"objective `{job.objective}` does not fit the rows, which are {kind}",
            code="data.objective",
            where="training.objective",
            hint=f"Use `objective: {found}` or `auto`.",
        )
    return found


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
