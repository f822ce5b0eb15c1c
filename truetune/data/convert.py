"""Rows from one notation to another: every row is read as for training, and written or named with the reason."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from truetune.config.schema import Data
from truetune.data import sources, write
from truetune.data.formats import Format
from truetune.data.notations import NOTATIONS, natural
from truetune.data.prepare import find_format, read
from truetune.data.rows import Reject, Row, RowError
from truetune.data.sources import Source
from truetune.data.write import SINKS, Writer
from truetune.errors import InputError, UsageError

TOLD = 100
"""Rejects that the report names; all are counted."""
NAMED = (".jsonl", ".json")
"""Kinds of files whose rows say where they came from."""
FILES = {suffix.removeprefix(".") for suffix in SINKS}


def convert(
    paths: Sequence[str],
    to: str,
    out: Path,
    folder: Path,
    *,
    format: str = "auto",
    columns: Mapping[str, str] | None = None,
    split: str = "train",
    replace: bool = False,
) -> dict[str, Any]:
    """Write the rows of `paths` (looked for in `folder`) to `out` and report on it, JSON-ready:

    `{out, notation, format, inputs: [{path, bytes, sha256}], rows: {read, written, rejected}, codes: {code: count},
    rejects: [{where, code, reason}], unused_columns: [name], bytes, sha256}`; `rejects` are the first `TOLD` of them.

    `to` is a notation, or a kind of file (`parquet`, …), which keeps what the rows hold in its natural notation.
    Raises InputError: what `sources.find` and `find_format` raise, `data.out_exists`, `data.no_rows` if no row can be
    written; UsageError: `data.notation`, `data.out`; ResourceError `data.write`.
    """
    _check(to, out)
    options = Data(path=tuple(paths), format=format, columns=dict(columns) if columns else None, split=split)
    files = sources.find(options.paths, folder, options.split)
    _check_place(out, files, replace)
    inputs = [{"path": file.name, "bytes": file.bytes, "sha256": file.sha256} for file in files]
    form = find_format(options, files)
    notation = natural(form.shape, table=out.suffix.lower() == ".csv") if to in FILES else to
    account = _Account(out.suffix.lower() in NAMED)
    with write.writer(out, notation) as writer:
        for row in read(files):
            account.take(row, form, writer)
        if not writer.count:
            raise account.nothing(notation)
    return {
        "out": str(out),
        "notation": notation,
        "format": form.report(),
        "inputs": inputs,
        "rows": {"read": account.read, "written": writer.count, "rejected": account.codes.total()},
        "codes": dict(account.codes),
        "rejects": [reject.brief() for reject in account.rejects],
        "unused_columns": form.unused.names(),
        **_described(out),
    }


def descent(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a row says about where it came from and who wrote it, as `ft dataset` has written it."""
    return {name: row[name] for name in ("origin", "generated") if row.get(name)}


class _Account:
    """Every row that was read, and the first of those that could not be written."""

    def __init__(self, named: bool) -> None:
        self.named = named
        self.read, self.codes = 0, Counter[str]()
        self.rejects: list[Reject] = []

    def take(self, row: Row | Reject, form: Format, writer: Writer) -> None:
        self.read += 1
        if isinstance(row, Row):
            try:
                writer.add(form.of(row.file).read(row.value), descent(row.value) if self.named else {})
                return
            except RowError as error:
                row = row.reject(error)
        self._refuse(row)

    def _refuse(self, reject: Reject) -> None:
        self.codes[reject.code] += 1
        if len(self.rejects) < TOLD:
            self.rejects.append(reject)

    def nothing(self, notation: str) -> InputError:
        first = self.rejects[0]
        message = f"no row can be written as `{notation}`; the first: {first.reason}"
        hint = f"Notations: {', '.join(NOTATIONS)}."
        return InputError(message, code="data.no_rows", where=first.where, hint=hint)


def _check(to: str, out: Path) -> None:
    """Refuse names that can't be meant before a row is read."""
    if to not in NOTATIONS and to not in FILES:
        hint = f"Notations: {', '.join(NOTATIONS)}; kinds of file: {', '.join(sorted(FILES))}."
        raise UsageError(f"rows can't be converted to {to!r}", code="data.notation", where=to, hint=hint)
    if to in FILES and out.suffix.lower() != f".{to}":
        message, hint = f"a {to} file has another suffix", f"Name it {out.with_suffix(f'.{to}').name}."
        raise UsageError(message, code="data.out", where=str(out), hint=hint)
    write.checked(out, to if to in NOTATIONS else "openai")


def _check_place(out: Path, files: Sequence[Source], replace: bool) -> None:
    if any(out.exists() and out.samefile(file.path) for file in files):
        hint = "Name another file."
        raise UsageError("this file is read; it can't be written, too", code="data.out", where=str(out), hint=hint)
    if out.exists() and not replace:
        hint = "Name another file, or remove this one."
        raise InputError("the file is there already", code="data.out_exists", where=str(out), hint=hint)


def _described(out: Path) -> dict[str, Any]:
    with out.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return {"bytes": stream.tell(), "sha256": digest}
