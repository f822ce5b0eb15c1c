"""The rows that a subject is measured on: those its run held out, or those of a file.

Both come as the training saw its rows: read, checked and rendered by the same code, with the subject's own template,
and under the run's own `data.max_length`, `too_long` and `train_on`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from truetune.config import Config
from truetune.config.schema import Data
from truetune.data import formats, objectives, sources
from truetune.data.cache import Examples
from truetune.data.example import Example
from truetune.data.formats import Format
from truetune.data.prepare import KINDS, Prepared, prepare, read
from truetune.data.rows import Content, Conversation, Labelled, Preference, Rated, Row, RowError
from truetune.errors import Finding, InputError, TrueTuneError, UsageError
from truetune.evaluate.subject import Subject
from truetune.evaluate.tasks import task_of
from truetune.runs.run import Run
from truetune.train.reopen import reopen


@dataclass(frozen=True)
class Item:
    """One row: its examples for the loss, and for generation what is asked and what the row answers."""

    row: int
    where: str
    examples: Sequence[Example]
    messages: Sequence[Mapping[str, Any]] = ()
    """The conversation before its last answer; empty for a text."""
    reference: str = ""

    @property
    def question(self) -> str:
        return str(self.messages[-1]["content"]) if self.messages else ""


@dataclass(frozen=True)
class Material:
    """Rows to measure on. `data` is JSON-ready: where they come from, and what became of the others."""

    task: str
    items: Sequence[Item]
    data: dict[str, Any]

    @property
    def digest(self) -> str | None:
        """Of the files' content, hex; None for the run's own held-out rows."""
        if self.data["held_out"]:
            return None
        return hashlib.sha256("".join(entry["sha256"] for entry in self.data["inputs"]).encode()).hexdigest()


def gather(
    subject: Subject,
    data: Sequence[str],
    limit: int | None = None,
    folder: Path | None = None,
    columns: Mapping[str, str] | None = None,
) -> Material:
    """The rows of `data`, else those that the subject's run held out; at most `limit` of them, spread over all.

    `columns` are our names of the columns of `data`, each with theirs. Raises what `prepare` and `train.reopen.reopen`
    raise, InputError `evaluate.no_rows` for a run that held none out, and UsageError `evaluate.no_data`,
    `evaluate.texts` where it must be told what to measure on.
    """
    if data:
        prepared = of_files(subject, data, folder or Path(), columns)
        return material(prepared, prepared.train, limit, learned(subject), subject.objective, held_out=False)
    if subject.run is None or not subject.trained:
        raise UsageError(
            "it has no run that held rows out to measure on",
            code="evaluate.no_data",
            where=subject.name,
            hint="Name rows that it was not trained on: --data FILE.",
        )
    prepared = of_run(subject.run)
    return material(prepared, prepared.validation, limit, frozenset(), subject.objective, held_out=True)


def of_run(run: Run) -> Prepared:
    """The run's own rows, as it prepared them."""
    prepared = reopen(run).prepared
    if not len(prepared.validation):
        raise InputError(
            "the run held no rows out, so there is nothing to measure on that it was not trained on",
            code="evaluate.no_rows",
            where=run.id,
            hint="Name other rows: --data FILE. A run holds rows out with `data.validation: 5%`.",
        )
    return prepared


def of_files(subject: Subject, data: Sequence[str], folder: Path, columns: Mapping[str, str] | None) -> Prepared:
    """All rows of files, rendered as the subject's training rendered its own."""
    files, encode = Data(path=tuple(data), **ALL), subject.tokenizer
    template = subject.template or encode.plain()

    def rendered(options: Data) -> Prepared:
        return prepare(options, objective="auto", seed=0, folder=folder, tokenizer=encode, template=template)

    try:
        prepared = fitting(subject, files, columns, rendered)
    except InputError as error:
        raise unfit(error.finding, data) if error.finding.where in KEYS else error from None
    refuse_other_kind(subject, prepared.objective)
    if subject.template is None and prepared.objective == "sft":
        raise UsageError(
            "it learned to go on with texts, and these rows are conversations",
            code="evaluate.texts",
            where=subject.name,
            hint="Measure it on plain texts: a .txt file, or rows with a column `text`.",
        )
    return prepared


def refuse_other_kind(subject: Subject, kind: str) -> None:
    """Labels for a model that writes, or anything but its own kind for one that gives scores. Raises UsageError."""
    wanted = objectives.of(subject.objective).rows if subject.scores else ""
    if (wanted and kind != wanted) or (not wanted and kind == "classification"):
        learned = f"gives scores for {KINDS[wanted]}" if wanted else "writes, and knows no classes"
        raise UsageError(
            f"it {learned}, and these rows are {KINDS[kind]}",
            code="evaluate.other_rows",
            where=subject.name,
            hint="Measure it on rows like those that it was trained on.",
        )


def fitting(
    subject: Subject, files: Data, columns: Mapping[str, str] | None, rendered: Callable[[Data], Prepared]
) -> Prepared:
    """The files by the columns that were named; else by those of the subject's training, or by the usual ones."""
    if columns:
        return rendered(like_training(subject, files).model_copy(update={"columns": dict(columns)}))
    try:
        return rendered(like_training(subject, files, SHAPED))
    except InputError as error:  # its training's columns are not those of this file
        if error.finding.code not in OTHER:
            raise
    return rendered(like_training(subject, files))


def unfit(found: Finding, data: Sequence[str]) -> InputError:
    """What is wrong with the shape of these rows, in the words of an evaluation, which reads no train.yml."""
    hint = re.sub(r"`columns: [^`]*`", "--columns prompt=YOURS,response=YOURS", found.hint)
    return InputError(found.message, code=found.code, where=", ".join(data), hint=hint)


ALL: dict[str, Any] = {"validation": None, "dedupe": "none", "max_rejects": "100%"}
"""Every row of a file that can be read is measured; the others are counted."""
TREATED = ("train_on", "max_length", "too_long")
SHAPED = ("format", "columns")
"""Keys of a run's `data` that other rows are read by: always, and where they fit."""
KEYS = ("data.format", "data.columns")
"""Keys of train.yml that errors name where rows have no shape that is known."""
OTHER = ("data.no_column", "data.unknown_format", "data.no_rows")
"""What is said of rows that have another shape than asked for."""


def like_training(subject: Subject, files: Data, more: Sequence[str] = ()) -> Data:
    """The files under the settings of the subject's training."""
    if subject.run is None or not subject.trained:
        return files
    written = Config.model_validate(subject.run.resolved["written"]).data
    return files.model_copy(update={name: getattr(written, name) for name in (*TREATED, *more)})


def material(
    prepared: Prepared,
    examples: Examples,
    limit: int | None,
    learned: Collection[bytes] | None,
    objective: str,
    *,
    held_out: bool,
) -> Material:
    """The rows of these examples. `learned` are the digests of rows that were trained on; None = not known. `objective`
    is the subject's."""
    parts: dict[int, list[Example]] = {}
    for place in range(len(examples)):
        parts.setdefault(examples[place].row, []).append(examples[place])
    chosen = spread(list(parts), limit)
    report = prepared.report
    contents = {index: (where, content) for index, where, content in texts(report, set(chosen))}
    items = [item(index, *contents[index], parts[index]) for index in chosen]
    trained = None if learned is None else sum(content.digest in learned for _, content in contents.values())
    lost = ("rejected", "too_long", "unsupervised")
    about = {
        "held_out": held_out,
        "inputs": report["inputs"],
        "format": report["format"]["name"],
        "rows": len(chosen),
        "available": len(parts),
        "supervised": sum(example.supervised for item in items for example in item.examples),
        "left_out": {} if held_out else {name: report["rows"][name] for name in lost if report["rows"][name]},
        "contaminated": trained,
        **({"classes": report["classes"]} if "classes" in report else {}),
    }
    return Material(task_of(report["format"]["name"], report["objective"], objective), items, about)


def spread(rows: list[int], limit: int | None) -> list[int]:
    """At most `limit` rows, evenly from all over the file, because files are often sorted by subject."""
    if limit is None or limit >= len(rows):
        return rows
    return [rows[at * len(rows) // limit] for at in range(limit)]


def item(row: int, where: str, content: Content, examples: Sequence[Example]) -> Item:
    if isinstance(content, Labelled):
        asked = {"role": "user", "content": "\n".join(filter(None, (content.text, content.pair)))}
        return Item(row, where, examples, (asked,), ", ".join(content.labels))
    talk = asked_of(content)
    if talk is None:
        return Item(row, where, examples)
    messages = talk.messages()
    return Item(row, where, examples, messages[:-1], messages[-1]["content"])


def asked_of(content: Content) -> Conversation | None:
    """The conversation whose last answer is the one to give; None where there is none, or it was found bad."""
    if isinstance(content, Preference):
        return content.sides()[0]
    if isinstance(content, Rated):
        return content.conversation if content.desirable else None
    return content if isinstance(content, Conversation) else None


def texts(report: Mapping[str, Any], wanted: Collection[int]) -> Iterator[tuple[int, str, Content]]:
    """(row, where, content) of the wanted rows, read again from the files that a preparation names."""
    form = shape(report)
    files = [sources.Source(Path(entry["resolved"]), entry["path"], entry["bytes"]) for entry in report["inputs"]]
    for row in read(files):
        if row.index in wanted and isinstance(row, Row):
            yield row.index, row.where, form.of(row.file).read(row.value)


def shape(report: Mapping[str, Any]) -> Format:
    found = report["format"]
    columns, others = found["columns"], found.get("files", {})
    by_file = {file: formats.named(name, columns) for file, name in others.items()}
    return replace(formats.named(found["name"], columns), others=by_file)


def learned(subject: Subject) -> Collection[bytes] | None:
    """Digests of the rows that the subject's run was trained on; None where that cannot be known."""
    if subject.run is None or not subject.trained:
        return None
    try:
        prepared = reopen(subject.run).prepared
        return {content.digest for _, _, content in texts(prepared.report, rows(prepared.train))}
    except (TrueTuneError, RowError):  # its files have moved or changed since
        return None


def rows(examples: Examples) -> set[int]:
    return {examples[place].row for place in range(len(examples))}
