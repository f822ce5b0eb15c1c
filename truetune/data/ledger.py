"""The account of a preparation: every row once, every token, and what a person should know. It becomes the receipt."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from truetune.data import ratings, served
from truetune.data.classes import Classes
from truetune.data.dedupe import Survey
from truetune.data.fit import Fitted
from truetune.data.formats import Format
from truetune.data.job import Job, Options
from truetune.data.ratings import Ratings
from truetune.data.reading.notes import Notes
from truetune.data.render import Rendered
from truetune.data.rows import Content, Conversation, Document, Labelled, Preference, Rated, Reject
from truetune.data.sources import MEASURED, Source
from truetune.data.split import Split, Traits, hold_out
from truetune.errors import InputError

OBJECTIVES: dict[type[Content], str] = {
    Conversation: "sft",
    Document: "pretrain",
    Preference: "dpo",
    Rated: "kto",
    Labelled: "classification",
}
"""What rows of a kind are for."""
CHATS = ("sft", "dpo", "kto")
FATES = {
    "data.duplicate": "deduplicated",
    "data.near_duplicate": "deduplicated",
    "data.contaminated": "contaminated",
    "data.generated": "contaminated",
    "data.too_long": "too_long",
    "data.unsupervised": "unsupervised",
}
"""Why a row that is not bad is not used; every other code is a rejected row."""
MENDED = {
    "data.unsupervised": "Look at data.train_on, and at the weights of the messages.",
    "data.contaminated": "Give rows that do not stand in what is measured on.",
    "data.generated": "Name a file of rows that people wrote: data.validation.",
    "data.other_shape": "Name the shape of the rows: data.format.",
}
"""What to do where no row is left, by the commonest reason."""
TEMPLATES = ("data.template", "data.no_end_of_turn", "data.token_boundary")
"""How the reasons begin that lie in the template and not in the rows."""
NAMED = 100
"""Unused rows of each fate that the report names; all of them stand in `rejects.jsonl`."""
TORN = {
    "sft": "most rows ask the same, so rows with the same question stand among trained and held-out ones",
    "pretrain": "most texts are nearly the same, so near copies stand among trained and held-out ones",
    "classification": "most texts are nearly the same, so near copies stand among trained and held-out ones",
}
"""Where groups of rows are torn."""
NAMED_FILES = 5
"""Files that are not read, of which a finding gives the names."""
EXAMPLES = 5
"""Pairs of near rows that a finding names."""
WARNINGS = {
    "data.near_duplicate",
    "data.conflicting_answers",
    "data.no_validation",
    "data.torn_groups",
    "json.duplicate_key",
    "data.no_eos",
    "data.template_tokens",
    "data.one_sided",
    "data.one_prompt",
}
"""Findings that are more than a note."""


@dataclass
class Ledger:
    """Counts while rows are taken in."""

    objective: str
    rows: Counter[str] = field(default_factory=Counter)
    files: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    """Why rows are not used."""
    words: dict[str, str] = field(default_factory=dict)
    """The reason of each code's first row."""
    rejects: list[Reject] = field(default_factory=list)
    broken: Reject | None = None
    """Where a file breaks: how many rows follow, nobody knows, so no `max_rejects` allows it."""
    examples: int = 0
    lost: int = 0
    appended: int = 0
    closed: int = 0
    train: array[int] = field(default_factory=lambda: array("q"))
    """Training rows that are used."""
    kinds: array[int] = field(default_factory=lambda: array("i"))
    """The class of each, by its place in `named`."""
    named: dict[str, int] = field(default_factory=dict)
    ratings: Ratings = field(default_factory=Ratings)
    classes: Classes = field(default_factory=Classes)
    measured: array[int] = field(default_factory=lambda: array("q"))
    """Rows of an explicit validation file that are used."""
    near: array[int] = field(default_factory=lambda: array("q"))
    """Rows that are used although they are nearly the same as another."""
    near_examples: list[str] = field(default_factory=list)
    notes: Notes = field(default_factory=Notes)
    """What the readers say about the files."""

    def read(self, file: str) -> None:
        self.rows["read"] += 1
        self.files[file] += 1

    def refuse(self, reject: Reject) -> None:
        fate = FATES.get(reject.code, "rejected")
        self.rows[fate] += 1
        self.codes[reject.code] += 1
        self.words.setdefault(reject.code, reject.reason)
        if reject.code == "data.broken_file":
            self.broken = self.broken or reject
        if self.rows[fate] <= NAMED:
            self.rejects.append(reject)

    def use(self, row: int, content: Content, rendered: Rendered, fitted: Fitted, train: bool) -> None:
        self.rows["used"] += 1
        self.rows["truncated"] += fitted.lost > 0
        self.modes[rendered.mode] += 1
        self.ends[rendered.end] += 1
        self.lost += fitted.lost
        self.appended += rendered.appended
        self.examples += len(fitted.parts)
        self.closed += sum(part.closed for part in fitted.parts)
        (self.train if train else self.measured).append(row)
        if train:
            self.kinds.append(self.named.setdefault(_kind(content), len(self.named)))
            self.ratings.see(content)

    def alike(self, row: int, example: str) -> None:
        """A row is used although it is nearly the same as another."""
        self.near.append(row)
        if len(self.near) <= EXAMPLES:
            self.near_examples.append(example)

    def check(self, options: Options, files: Sequence[Source], measured: Sequence[Source]) -> None:
        """`measured` are the files of an explicit validation set. Raises InputError (exit 3): `data.broken_file`,
        `data.too_long`, `data.no_rows`, `data.validation`, `data.too_many_rejects`."""
        where = ", ".join(source.name for source in files)
        if self.broken:
            message, hint = f"nothing after this can be read: {self.broken.reason}", "Mend the file here."
            raise InputError(message, code="data.broken_file", where=self.broken.where, hint=hint)
        if options.too_long == "error" and self.rows["too_long"]:
            self._stop("data.too_long", f"{_are(self.rows['too_long'])} longer than max_length", ["data.too_long"])
        if not self.train:
            common = "; ".join(f"{reason} ({count}×)" for reason, count in self._common())
            message = f"no row can be trained: {common}" if common else "there is no row to train on"
            raise InputError(message, code="data.no_rows", where=where, hint=self._mended(options))
        if measured and not self.measured:
            hint = "Name another file, or write `validation: auto`."
            raise InputError("no row of it can be used", code="data.validation", where=measured[0].name, hint=hint)
        allowed = options.max_rejects.within(self.rows["read"])
        if self.rows["rejected"] > allowed:
            bad = f"{self.rows['rejected']} of {self.rows['read']} rows are bad"
            message = f"{bad}, more than the {allowed} that data.max_rejects allows"
            self._stop("data.too_many_rejects", message, None)

    def _common(self) -> list[tuple[str, int]]:
        """The three most common kinds of reasons, each in the words of its first row."""
        return [(self.words[code], count) for code, count in self.codes.most_common(3)]

    def _mended(self, options: Options) -> str:
        """What to do where no row is left."""
        common = self.codes.most_common(1)[0][0] if self.codes else ""
        if common == "data.too_long":
            other = "" if options.too_long == "truncate" else ", or choose `data.too_long: truncate`"
            return f"Raise data.max_length{other}."
        if common.startswith(TEMPLATES):
            return "Choose another template, such as `data.template: chatml`, or one that is made for this model."
        return MENDED.get(common, "Mend the rows; `ft dataset show` shows how each is read.")

    def _stop(self, code: str, message: str, codes: list[str] | None) -> None:
        named = [item for item in self.rejects if (item.code in codes if codes else item.code not in FATES)]
        lines = "".join(f"\n  {item.where}: {item.reason}" for item in named[:10])
        hint = (
            "Mend them, or allow more: data.max_rejects." if codes is None else "Raise data.max_length, or drop them."
        )
        raise InputError(message + lines, code=code, where=named[0].where if named else "", hint=hint)

    def split(self, survey: Survey, amount: Any, seed: int) -> Split:
        """Rows that are held out: chosen by `amount`, and all of an explicit validation file. No row that a model wrote
        or has made more of, nor any that goes together with one; an amount is a part of the rows that people wrote."""
        if not self.train:
            return Split(set(self.measured))
        rows = np.frombuffer(self.train, np.int64)
        groups = survey.groups()[rows]
        free = np.flatnonzero(~np.isin(groups, groups[survey.pinned[rows]]))
        places = rows[free]
        kinds = self._classes()[free]
        traits = Traits(survey.opening[places], survey.own[places], groups[free], kinds)
        chosen = hold_out(traits, amount, seed, int((~survey.made[rows]).sum()))
        return Split({int(places[place]) for place in chosen.held} | set(self.measured), chosen.whole)

    def _classes(self) -> NDArray[np.int64]:
        """The class of each training row, by its place among the names in order."""
        places = {name: place for place, name in enumerate(sorted(self.named))}
        return np.array([places[name] for name in self.named], np.int64)[np.frombuffer(self.kinds, np.int32)]

    def report(self, form: Format, job: Job, survey: Survey, split: Split, index: NDArray[np.int64]) -> dict[str, Any]:
        """JSON-ready. Tokens are counted per side, lengths over all examples."""
        lengths, counts, held = index[:, 1], index[:, 2], index[:, 4] == 1
        held_rows = len(np.unique(index[held, 3]))
        names = ("read", "rejected", "deduplicated", "contaminated", "too_long", "truncated", "unsupervised", "used")
        rows = {name: self.rows[name] for name in names}
        used = len(np.unique(index[:, 3]))
        rows |= {"used": used, "sampled_out": rows["used"] - used, "train": used - held_rows, "validation": held_rows}
        return {
            "objective": self.objective,
            "inputs": [self._input(source) for source in (*job.train, *job.validation)],
            "format": form.report(),
            "rows": rows,
            "tokens": {**_sides(lengths, held), "lost": self.lost},
            "supervised": _sides(counts, held),
            "examples": _sides(np.ones_like(lengths), held),
            "end_of_turn_supervised": self._share(),
            "rendering": self._rendering(job),
            "lengths": _lengths(lengths),
            **self.classes.report(),
            "rejects": [reject.brief() for reject in self.rejects],
            "findings": self._findings(job, survey, split),
        }

    def _input(self, source: Source) -> dict[str, Any]:
        return {
            "path": source.name,
            "resolved": str(source.path),
            "sha256": source.sha256,
            "bytes": source.bytes,
            "rows": self.files[source.name],
            **({"weight": source.weight} if source.weight != 1 else {}),
        }

    def _share(self) -> float | None:
        """Share of what must end that ends in a trained token: examples, or documents (whose last window ends)."""
        if self.objective == "classification":
            return None
        total = self.rows["used"] if self.objective == "pretrain" else self.examples
        return self.closed / total if total else None

    def _end(self) -> str:
        """The token that most answers end in."""
        return self.ends.most_common(1)[0][0] if self.ends else ""

    def _rendering(self, job: Job) -> dict[str, Any]:
        chat = self.objective in CHATS
        return {
            "template": job.template.origin if chat else "none",
            "template_sha256": job.template.digest if chat else None,
            "end_of_turn": "appended" if self.appended else "template" if chat else "document",
            "end_token": self._end() or None,
            "whole": self.modes["whole"],
            "per_turn": self.modes["per_turn"],
            "documents": self.modes["document"],
        }

    def _findings(self, job: Job, survey: Survey, split: Split) -> list[dict[str, str]]:
        found = [*self._about_ends(job), *self._about_rows(survey)]
        if self.lost:
            tokens, rows = _counted(self.lost, "token"), _counted(self.rows["truncated"], "row")
            found.append(("data.lost", f"max_length cuts {tokens} of {rows}"))
        if self.train and not split.held and job.options.validation is not None and not job.validation:
            found.append(("data.no_validation", "too few rows to hold any out: there will be no held-out loss"))
        if not split.whole:
            found.append(("data.torn_groups", TORN.get(self.objective, TORN["sft"])))
        if job.left_out:
            found.append(("data.files_left_out", _unread(job)))
        found += [*self.ratings.findings(), *self.notes.findings()]
        return [_finding(code, message) for code, message in found]

    def _about_ends(self, job: Job) -> list[tuple[str, str]]:
        tokenizer, end, found = job.tokenizer, self._end(), []
        if self.objective in CHATS:
            found += _about_template(job, self.appended, self.modes["per_turn"])
        if end and tokenizer.id(end) not in tokenizer.eos_ids:
            message = f"{end} ends an answer, but the model's configuration does not stop there"
            found.append(("data.end_not_eos", message))
        if not end and self.ends and self.objective != "classification":
            found.append(("data.no_eos", "the tokenizer has no end-of-text token, so texts are trained without an end"))
        return found

    def _about_rows(self, survey: Survey) -> list[tuple[str, str]]:
        """What rows have to do with each other and are used all the same."""
        found = []
        if self.near:
            message = f"{_are(len(self.near))} nearly the same as another and used all the same, such as "
            found.append(("data.near_duplicate", message + "; ".join(self.near_examples)))
        used = np.sort(np.array(self.train + self.measured, np.int64))
        conflict = survey.conflict(np.setdiff1d(used, np.array(self.near, np.int64), assume_unique=True))
        if conflict.rows:
            message = f"{conflict.rows} rows ask what another asks and answer it differently, such as "
            found.append(("data.conflicting_answers", message + "; ".join(conflict.examples)))
        return found


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _are(rows: int) -> str:
    return f"{_counted(rows, 'row')} {'is' if rows == 1 else 'are'}"


def _finding(code: str, message: str) -> dict[str, str]:
    hint = {"hint": ratings.ADVICE[code]} if code in ratings.ADVICE else {}
    return {"code": code, "level": "warning" if code in WARNINGS else "note", "message": message} | hint


def _kind(content: Content) -> str:
    """The class of a row, of which each gives its share to the held-out rows."""
    if isinstance(content, Labelled):
        return ", ".join(content.labels)
    return str(content.desirable) if isinstance(content, Rated) else ""


def _unread(job: Job) -> str:
    """Which files of a folder nobody reads, and what one of them is for."""
    names = job.left_out
    more = f" and {len(names) - NAMED_FILES} more" if len(names) > NAMED_FILES else ""
    message = f"{', '.join(names[:NAMED_FILES])}{more} {'is' if len(names) == 1 else 'are'} not read"
    held = next((name for name in names if MEASURED.match(Path(name).name)), None)
    return f"{message}; to measure on {Path(held).name}, write `data.validation: {held}`" if held else message


def _about_template(job: Job, appended: int, per_turn: int) -> list[tuple[str, str]]:
    found = []
    if job.template.origin == "plain":
        found.append(("data.plain_template", "the model brings no chat template; a plain one is used"))
    if job.template.dated:
        found.append(("data.template_date", "the chat template writes today's date into the prompt"))
    found += served.remarks(job.template, job.tokenizer)
    if appended:
        found.append(("data.end_appended", "the template does not end an answer; the end-of-text token is added"))
    if per_turn:
        found.append(("data.per_turn", f"{_are(per_turn)} trained answer by answer, each behind its prompt as served"))
    return found


def _sides(values: NDArray[np.int64], held: NDArray[np.bool_]) -> dict[str, int]:
    return {"train": int(values[~held].sum()), "validation": int(values[held].sum())}


def _lengths(lengths: NDArray[np.int64]) -> dict[str, int]:
    if not len(lengths):
        return dict.fromkeys(("min", "median", "p95", "max"), 0)
    middle, high = np.percentile(lengths, [50, 95], method="nearest")
    return {"min": int(lengths.min()), "median": int(middle), "p95": int(high), "max": int(lengths.max())}
