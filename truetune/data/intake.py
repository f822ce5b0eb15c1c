"""Rows to examples: each row ends as an example or in the rejects, and the ledger counts it once."""

from __future__ import annotations

import gc
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from truetune.data import cache, readers
from truetune.data.dedupe import FOREIGN, TRAIN, VALIDATION, Near, Survey, Surveyor
from truetune.data.fit import Fitted, fit, portions
from truetune.data.formats import Format
from truetune.data.inspector import Inspector
from truetune.data.job import Job
from truetune.data.ledger import OBJECTIVES, Ledger
from truetune.data.reading.notes import Notes, ignore
from truetune.data.render import Rendered, Renderer
from truetune.data.rows import Content, Conversation, Reject, Row, RowError
from truetune.data.sources import Source
from truetune.listener import Listener

CHUNK = 256
"""Rows that are read, and those of them that are used rendered and encoded, in one go."""

SELDOM, OFTEN = 50_000, 0.0005
"""New objects after which Python looks for cycles among them, and seconds after which a thread gives way to another."""
USUAL = (gc.get_threshold(), sys.getswitchinterval())

Formats = Mapping[int, Format]
"""The shape of the rows for each purpose (`dedupe.TRAIN`, …)."""
Taken = deque[Reject | tuple[Row, Content]]
"""Rows that have been read and have no fate yet, in order."""


@contextmanager
def hurried() -> Iterator[None]:
    """Rows are millions of objects without a cycle: looking for one at every 700 takes a tenth of the time. And threads
    that compute outside of Python ask for it back many times for each chunk, and wait for whole turns of this one.

    Ends with what both were at first, so that it does no harm where two ends overlap.
    """
    (_, *others), pause = USUAL
    gc.set_threshold(SELDOM, *others)
    sys.setswitchinterval(OFTEN)
    try:
        yield
    finally:
        gc.set_threshold(*USUAL[0])
        sys.setswitchinterval(pause)


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


@hurried()
def survey(job: Job, forms: Formats, folder: Path, listener: Listener) -> Survey:
    """Read all rows once for what they have to do with each other: training rows first, then the others."""
    surveyor, index = Surveyor(folder), 0
    for purpose, files in ((TRAIN, job.train), (VALIDATION, job.validation), (FOREIGN, job.against)):
        for row in read(files, index):
            surveyor.add(row, _content(row, forms[purpose]), purpose)
            index = row.index + 1
            if index % CHUNK == 0:
                listener("rows", {"stage": "reading rows", "done": index, "total": None})
    return surveyor.finish()


class Intake:
    """Takes in the rows of a job. Validation rows and foreign ones come first: training rows give way to them."""

    def __init__(
        self,
        job: Job,
        forms: Formats,
        ledger: Ledger,
        writer: cache.Writer,
        found: Survey,
        inspector: Inspector | None,
        listener: Listener,
    ) -> None:
        self.job, self.forms, self.ledger, self.writer, self.survey = job, forms, ledger, writer, found
        self.inspector, self.listener = inspector, listener
        train_on = job.options.train_on if ledger.objective == "sft" else "assistant"
        self.renderer = Renderer(job.tokenizer, job.template, train_on)

    @hurried()
    def run(self, folder: Path) -> None:
        """`folder` takes what is needed meanwhile."""
        self.near = Near(self.survey, folder)
        try:
            self._files(self.job.validation, self.survey.start(VALIDATION), VALIDATION)
            self._foreign()
            self._files(self.job.train, 0, TRAIN)
        finally:
            self.near.close()

    def _foreign(self) -> None:
        for row in read(self.job.against, self.survey.start(FOREIGN)):
            if self.near.wanted(row.index) and (content := _content(row, self.forms[FOREIGN])) is not None:
                self.near.keep(row.index, content)
            self.near.done(row.index)

    def _files(self, files: Sequence[Source], index: int, purpose: int) -> None:
        """Take in all rows of one side."""
        rows: Taken = deque()
        for results in self.renderer.stream(self._chunks(files, index, purpose, rows)):
            for result in results:
                row, content = self._next(rows)
                self._settle(row, content, result, purpose)
            done, total = self.ledger.rows["read"], len(self.survey.purpose)
            self.listener("rows", {"stage": "preparing rows", "done": done, "total": total})
        for last in rows:
            assert isinstance(last, Reject)  # every other has its result
            self._refuse(last)

    def _next(self, rows: Taken) -> tuple[Row, Content]:
        """The next row that is rendered; what is refused before it has its fate first, so rows are settled in order."""
        while isinstance(row := rows.popleft(), Reject):
            self._refuse(row)
        return row

    def _chunks(self, files: Sequence[Source], index: int, purpose: int, rows: Taken) -> Iterator[list[Content]]:
        """What is rendered together. The rows it belongs to are added to `rows`, and those between them."""
        given = read(files, index, self.ledger.notes)
        while some := [*islice(given, CHUNK)]:
            taken = [self._taken(row, purpose) for row in some]
            rows.extend(taken)
            yield [pair[1] for pair in taken if not isinstance(pair, Reject)]

    def _taken(self, row: Row | Reject, purpose: int) -> Reject | tuple[Row, Content]:
        """The row with its content, or why it is refused before it is rendered."""
        self.ledger.read(row.file)
        if isinstance(row, Reject):
            return row
        try:
            content = self.forms[purpose].of(row.file).read(row.value)
            self._check_kind(content)
            self.survey.check(row.index, self.job.options.dedupe != "none")
        except RowError as error:
            return row.reject(error)
        return row, content

    def _check_kind(self, content: Content) -> None:
        if (kind := OBJECTIVES[type(content)]) != self.ledger.objective:
            raise RowError("data.other_shape", f"the row is one for `{kind}`, the others are for another objective")

    def _settle(self, row: Row, content: Content, result: Rendered | RowError, purpose: int) -> None:
        try:
            if isinstance(result, RowError):
                raise result
            fitted = self._fit(content, result)
            self._check_near(row, content, purpose)
        except RowError as error:
            self._refuse(row.reject(error))
        else:
            self._use(row, content, result, fitted, purpose)

    def _fit(self, content: Content, rendered: Rendered) -> Fitted:
        options = self.job.options
        if options.too_long == "split" and isinstance(content, Conversation):
            return portions(content, rendered, self.renderer, options.max_length)
        return fit(rendered, options.max_length, options.too_long, options.overlap)

    def _check_near(self, row: Row, content: Content, purpose: int) -> None:
        """Raises RowError: `data.contaminated`, or `data.near_duplicate` where that is wanted."""
        if (kin := self.near.find(row.index, content)) is None:
            return
        other = self.survey.where(kin.row)
        reason = f"the row is nearly the same as {other} ({kin.similarity:.0%})"
        if purpose == TRAIN != self.survey.purpose[kin.row]:
            raise RowError("data.contaminated", reason)
        if self.job.options.dedupe == "near":
            raise RowError("data.near_duplicate", reason)
        self.ledger.alike(row.index, f"{row.where} and {other} ({kin.similarity:.0%})")

    def _use(self, row: Row, content: Content, rendered: Rendered, fitted: Fitted, purpose: int) -> None:
        for part in fitted.parts:
            self.writer.add(part, row.index, self.ledger.classes.numbers(content))
        self.ledger.use(row.index, content, rendered, fitted, purpose == TRAIN)
        self.near.keep(row.index, content)
        self.near.done(row.index)
        if self.inspector:
            self.inspector.used(row, content, rendered, fitted, purpose == TRAIN)

    def _refuse(self, reject: Reject) -> None:
        self.writer.reject(reject)
        self.ledger.refuse(reject)
        self.near.done(reject.index)
        if self.inspector:
            self.inspector.unused(reject)


def _content(row: Row | Reject, form: Format) -> Content | None:
    """None for a row that can't be read."""
    if isinstance(row, Reject):
        return None
    try:
        return form.of(row.file).read(row.value)
    except RowError:
        return None
