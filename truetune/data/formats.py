"""Which shape a data set has, and its rows read by that shape.

A shape is a row of `SHAPES`, or one that another package brings through the entry points of the group
`truetune.formats`. The shape of a file is decided by all its rows together, never by the first alone.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from truetune.data.chat import check_order
from truetune.data.rows import Content, Conversation, Preference, Rated, RowError
from truetune.data.shapes import Shape, Value, plugins
from truetune.data.shapes.choices import WORDS, rating, word
from truetune.data.shapes.names import Unused, spelled, tidy
from truetune.data.shapes.table import KTO, SHAPES, TALKS
from truetune.data.shapes.unknown import unknown
from truetune.errors import InputError

ALIASES = {
    "openai": "messages",
    "classification": "text_label",
    "dpo": "preference",
    "dolly": "instruction_response",
    "instruction_context_response": "instruction_response",
    "question_context_answer": "question_answer",
}
"""Other names that people have for a shape."""


@dataclass(frozen=True)
class Format:
    """The shape of a data set: how it was found, and the user's names for its columns.

    `share` is the part of the `seen` rows that have the shape, 1 where the user named it and none was looked at.
    """

    shape: Shape
    share: float
    detected: bool
    columns: Mapping[str, str] | None = None
    seen: int = 0
    mend: Callable[[Content], Content] | None = None
    """Repairs of a content, before anything else sees it."""
    others: Mapping[str, Format] = field(default_factory=dict)
    """Of several files, those whose rows have another shape than most."""
    spelled: Mapping[str, str] = field(default_factory=dict)
    """Our names of columns that stand there in other capitals or with spaces around them, and theirs."""
    file: str = ""
    """The file that it reads, where it is that of one file."""
    unused: Unused = field(default_factory=Unused)
    files: dict[str, Format] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What `of` has given."""

    def of(self, file: str) -> Format:
        """The format of one of the files, by its name. What it reads is told by `unused`."""
        if file not in self.files:
            its = self.others.get(file, self)
            self.files[file] = replace(its, mend=self.mend, file=file, unused=self.unused)
        return self.files[file]

    def read(self, value: Value) -> Content:
        """A row's content, mended where that is asked for. Raises RowError."""
        content = self.raw(value)
        return checked(self.mend(content) if self.mend else content)

    def raw(self, value: Value) -> Content:
        """A row's content as it stands there. Raises RowError."""
        row = rename(value, self.columns)
        missing = [name for name in self.shape.columns if name not in row]
        if missing:
            found = shape_of(row)
            if found is not None and found is not self.shape:
                reason = f"the row has the shape `{found.name}`, not `{self.shape.name}`"
            else:
                reason = f"column {missing[0]!r} is missing (shape `{self.shape.name}`)"
            raise RowError("data.other_shape", reason)
        if self.file:
            self.unused.see(self.file, value, self.shape, self.columns, row)
        return self.shape.read(row)

    def report(self) -> dict[str, Any]:
        columns = dict(self.columns) if self.columns else None
        found = {"name": self.shape.name, "share": self.share, "seen": self.seen}
        files = {"files": {file: form.shape.name for file, form in self.others.items()}} if self.others else {}
        names = {"spelled": dict(self.spelled)} if self.spelled else {}
        return {**found, "detected": self.detected, "columns": columns, **names, **files}


def checked(content: Content) -> Content:
    """The content with its conversations in order (see `check_order`). Raises RowError."""
    if isinstance(content, Conversation):
        return check_order(content)
    if isinstance(content, Rated):
        return replace(content, conversation=check_order(content.conversation))
    return _ordered(content) if isinstance(content, Preference) else content


def _ordered(pair: Preference) -> Preference:
    prompt = tuple(turn for turn in pair.prompt if turn.role != "system" or turn.content.strip())
    sides = [check_order(side).turns[len(prompt) :] for side in pair.sides()]
    if not all(sides):
        raise RowError("data.no_answer", "an answer of the pair has no assistant turn")
    if sides[0] == sides[1]:
        raise RowError("data.same_answers", "the better and the worse answer are the same")
    return replace(pair, prompt=prompt, chosen=sides[0], rejected=sides[1])


def shape_of(value: Value) -> Shape | None:
    """The first of our shapes that takes the row; else one of another package."""
    ours = next((shape for shape in SHAPES.values() if shape.takes(value)), None)
    return ours or next((shape for shape in plugins.shapes().values() if shape.takes(value)), None)


def rename(value: Value, columns: Mapping[str, str] | None) -> Value:
    """The row under our names; of columns that the user named, those that he did not are left out."""
    if columns is None:
        return tidy(value)
    return {ours: value[theirs] for ours, theirs in columns.items() if theirs in value}


def named(name: str, columns: Mapping[str, str] | None = None) -> Format:
    """The format that the user asked for. Raises InputError (`data.unknown_format`, `data.format_package`)."""
    name = ALIASES.get(name, name)
    shape = SHAPES.get(name) or plugins.shapes().get(name)
    if shape is None:
        message, hint = f"there is no format {name!r}", f"Formats: {_known()}."
        raise InputError(message, code="data.unknown_format", where="data.format", hint=hint)
    return Format(shape, 1.0, detected=False, columns=columns)


def detect(rows: Iterable[Value], columns: Mapping[str, str] | None = None, where: str = "") -> Format:
    """The shape that most rows have; `where` names their files. Raises InputError (`data.unknown_format`) if none is
    known, or two are equal."""
    counts: Counter[str | None] = Counter()
    names: Counter[str] = Counter()
    rated = _Rated()
    for value in rows:
        names.update(map(str, value))
        row = rename(value, columns)
        shape = shape_of(row)
        counts[shape.name if shape else None] += 1
        rated.see(row, shape)
    _check_columns(names, columns)
    rated.settle(counts)
    known = [(name, count) for name, count in counts.most_common() if name is not None]
    if not known or counts[None] > known[0][1]:
        raise _unknown("these rows have no shape that is known", names, columns, where)
    if len(known) > 1 and known[0][1] == known[1][1]:
        message = f"as many rows have the shape `{known[0][0]}` as `{known[1][0]}`"
        place = where or "data.format"
        raise InputError(message, code="data.unknown_format", where=place, hint="Say which you mean: `--format NAME`.")
    found = replace(named(known[0][0], columns), detected=True, seen=counts.total())
    if columns is None:
        used = {name for shape in (found.shape, *found.shape.inner) for name in shape.names}
        found = replace(found, spelled={ours: theirs for ours, theirs in spelled(names).items() if ours in used})
    return replace(found, share=known[0][1] / counts.total())


class _Rated:
    """Whether a column `label` beside an answer rates it: all rows together say so, but for a few that are bad."""

    def __init__(self) -> None:
        self.words: Counter[str] = Counter()
        """What it says, and how often; `""` for what no rating says."""
        self.talks: Counter[str | None] = Counter()
        """The shapes that rated rows have otherwise."""

    def see(self, row: Value, shape: Shape | None) -> None:
        if shape is None or "label" not in row:
            return
        talk = shape if shape in TALKS else next((each for each in TALKS if shape is KTO and each.takes(row)), None)
        if talk is not None and (said := word(row["label"])):
            self.words[said if said in WORDS else ""] += 1
        if talk is not None and shape is KTO:
            self.talks[talk.name] += 1

    def settle(self, counts: Counter[str | None]) -> None:
        """Correct how many rows have which shape."""
        if not rating(self.words):
            counts.subtract({KTO.name: self.talks.total()})
            counts.update(self.talks)


def joined(forms: Mapping[str, Format]) -> Format:
    """One format for several files, each with its own shape: that of most rows, and beside it the others."""
    rows: Counter[str] = Counter()
    for form in forms.values():
        rows[form.shape.name] += form.seen
    common = rows.most_common(1)[0][0]
    main = next(form for form in forms.values() if form.shape.name == common)
    share = sum(form.share * form.seen for form in forms.values()) / rows.total()
    others = {file: form for file, form in forms.items() if form.shape.name != common}
    return replace(main, share=share, seen=rows.total(), others=others)


def _check_columns(names: Counter[str], columns: Mapping[str, str] | None) -> None:
    """Refuse a column of the user's that no row has."""
    absent = [theirs for theirs in (columns or {}).values() if theirs not in names]
    if absent:
        found = list(names)[:12]
        near = difflib.get_close_matches(absent[0], found, n=1)
        did = f"Did you mean {near[0]!r}? " if near else ""
        raise InputError(
            f"no row has a column {absent[0]!r}",
            code="data.no_column",
            where="data.columns",
            hint=f"{did}Columns found: {', '.join(found)}. Write our name first: `columns: {{prompt: yours, …}}`.",
        )


def _unknown(message: str, names: Counter[str], columns: Mapping[str, str] | None, where: str) -> InputError:
    found = [name for name, _ in names.most_common()]
    return unknown(message, found, columns, {**SHAPES, **plugins.shapes()}, where)


def _known() -> str:
    shapes = [*SHAPES.values(), *plugins.shapes().values()]
    return "; ".join(f"{shape.name} ({', '.join(shape.columns)})" for shape in shapes)
