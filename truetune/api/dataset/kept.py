"""The rows that `dataset prepare` keeps: noted in passing, then written where they belong."""

from __future__ import annotations

import errno
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import orjson

from truetune.data import write
from truetune.data.convert import NAMED, descent
from truetune.data.dedupe import FOREIGN
from truetune.data.fit import Fitted
from truetune.data.formats import Format, checked
from truetune.data.notations import natural, to_row
from truetune.data.prepare import Prepared
from truetune.data.quality import Quality, clean
from truetune.data.render import Rendered
from truetune.data.rows import Content, Reject, Row
from truetune.errors import InputError, ResourceError, UsageError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def aside() -> Iterator[IO[bytes]]:
    """A file for notes. Raises ResourceError `disk.full` where it can't grow."""
    try:
        with tempfile.TemporaryFile() as notes:
            yield notes
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise ResourceError(
            f"there is no room for notes about the rows: {(error.strerror or str(error)).lower()}",
            code="disk.full",
            where=str(error.filename or tempfile.gettempdir()),
            hint="Free some space, or name another folder for such files: TMPDIR.",
        ) from error


class Keeper:
    """An inspector that notes the rows that are used, one line each, and lets the quality of all be looked at.

    Lines are (number of the row, where it came from, the row in the form in which it will be written).
    """

    def __init__(self, notes: IO[bytes], quality: Quality, form: Format, suffix: str, clean: bool) -> None:
        self.quality, self.form, self.clean = quality, form, clean
        self.table = suffix.lower() == ".csv"
        self.notation = natural(form.shape, self.table)
        self._notes, self._lists = notes, suffix.lower() == ".parquet"
        self.mended: Counter[str] = Counter()
        self.mended_rows = 0

    def used(self, row: Row, content: Content, rendered: Rendered, fitted: Fitted, train: bool) -> None:
        self.quality.used(row, content, rendered, fitted, train)
        if self.clean:
            _, done = clean(self.form.of(row.file).raw(row.value))
            self.mended.update(done)
            self.mended_rows += bool(done)
        written = to_row(content, self.notation, self._lists)
        self._notes.write(orjson.dumps([row.index, {"origin": row.where, **descent(row.value)}, written]) + b"\n")

    def mend(self, purpose: int, content: Content) -> Content:
        """As it will be written. Raises RowError where that can't be; rows that are compared with are not written."""
        content = clean(content)[0] if self.clean else content
        if purpose != FOREIGN:
            row = to_row(checked(content), self.notation, self._lists)
            if self.table:
                write.flat(row)
        return content

    @property
    def mends(self) -> bool:
        """Whether `mend` has anything to do: most notations hold all rows of their kind."""
        return self.clean or self.table or self.form.shape.kind == "labelled"

    def unused(self, reject: Reject) -> None:
        self.quality.unused(reject)

    def rows(self) -> Iterator[tuple[int, dict[str, Any], dict[str, Any]]]:
        self._notes.seek(0)
        yield from map(orjson.loads, self._notes)


@dataclass(frozen=True)
class Places:
    """The files of one preparation: `support.jsonl`, and `support.validation.jsonl` and the others beside it."""

    out: Path
    split: bool

    def beside(self, name: str) -> Path:
        return self.out.with_name(f"{self.out.stem}.{name}")

    @property
    def validation(self) -> Path:
        return self.beside(f"validation{self.out.suffix}")

    @property
    def rejects(self) -> Path:
        return self.beside("rejects.jsonl")

    @property
    def page(self) -> Path:
        return self.beside("report.html")

    def check(self, inputs: Iterable[Path], replace: bool, page: bool) -> None:
        """Raises UsageError `data.out` for a file that is read or of a kind that is not written, InputError
        `data.out_exists` for one that is there and must not be replaced."""
        write.checked(self.out, "openai")
        pages = [self.page, self.page.with_suffix(".md")] if page else []
        wanted = [self.out, *([self.validation] if self.split else []), self.rejects, *pages]
        there = [path for path in wanted if path.exists()]
        for path in inputs:
            if any(other.samefile(path) for other in there):
                raise UsageError(
                    "this file is read; it can't be written, too",
                    code="data.out",
                    where=str(path),
                    hint="Name another file: --out FILE.",
                )
        if there and not replace:
            raise InputError(
                "the file is there already",
                code="data.out_exists",
                where=str(there[0]),
                hint="Name another file, or replace it: --yes.",
            )

    def fill(self, prepared: Prepared, keeper: Keeper) -> dict[str, Any]:
        """Write the rows where they belong, and say which files there are."""
        held = {example.row for example in prepared.validation} if self.split else set()
        targets = {False: self.out} | ({True: self.validation} if held else {})
        with ExitStack() as stack:
            writers = {side: stack.enter_context(write.writer(at, keeper.notation)) for side, at in targets.items()}
            for index, origin, row in keeper.rows():
                writers[index in held].put(row | origin if self.out.suffix.lower() in NAMED else row)
        rejects = self._reject(prepared)
        found = {"out": self.out, "validation": self.validation if held else None, "rejects": rejects}
        return {name: str(path) if path else None for name, path in found.items()}

    def _reject(self, prepared: Prepared) -> Path | None:
        """The rows that are left out; None if there are none. A file of an earlier preparation goes."""
        if next(iter(prepared.rejects), None) is None:
            self.rejects.unlink(missing_ok=True)
            return None
        with write.stream(self.rejects) as stream:
            stream.writelines(orjson.dumps(reject) + b"\n" for reject in prepared.rejects)
        return self.rejects
