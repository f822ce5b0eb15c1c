"""A run's own held-out rows, answered by the model before and after the training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from truetune.data.example import Example
from truetune.errors import InputError, UsageError
from truetune.evaluate.subject import Subject
from truetune.evaluate.talk import out_of_memory
from truetune.evaluate.voice import Voice
from truetune.train.reading import Reader, reader
from truetune.train.reopen import reopen
from truetune.train.samples import chosen


@dataclass(frozen=True)
class Rows:
    """Held-out examples, and how they are read."""

    examples: Sequence[Example]
    reader: Reader


def check_count(count: int) -> None:
    """Raises UsageError `generation.bad_value` for a number of rows that cannot be asked."""
    if not isinstance(count, int) or count < 1:
        raise UsageError(
            f"{count!r} cannot be used", code="generation.bad_value", where="count", hint="Give 1 or more."
        )


def held_out(subject: Subject, count: int) -> Rows:
    """The first held-out rows of the subject's run. Raises UsageError, InputError (`generation.no_rows`), and what
    `reopen` raises where the data has changed."""
    if subject.run is None or not subject.tuned or not subject.trained:
        raise UsageError(
            f"{subject.name} is no run, so there are no rows of its own to ask",
            code="generation.no_rows",
            hint='Name a run (`ft runs list`), or ask it yourself: ft chat MODEL "…".',
        )
    session = reopen(subject.run)
    examples = chosen(session.prepared.validation, count)
    if not examples:
        raise InputError(
            "this run held out no rows",
            code="generation.no_rows",
            where=subject.run.id,
            hint='Train with data.validation, or ask it yourself: ft chat RUN "…".',
        )
    return Rows(examples, reader(session.tokenizer, session.template))


def side_by_side(voice: Voice, rows: Rows, **options: Any) -> list[dict[str, str]]:
    """{question, before, after, row} for each row: asked as it was trained, answered by the base and the tuned model,
    and what the row itself answers. Of a text-trained run the beginning of a text, how the two go on with it, and how
    the text does. `options` is how answers are drawn."""
    prompts, drawn = list(map(rows.reader.prompt, rows.examples)), voice.sampling(**options)
    with out_of_memory():
        before, after = (dict(voice.replies(prompts, drawn, tuned=tuned)) for tuned in (False, True))
    return [
        {
            "question": rows.reader.asked(prompt),
            "before": before[place].text,
            "after": after[place].text,
            "row": rows.reader.reference(example, len(prompt), drawn.max_new_tokens),
        }
        for place, (example, prompt) in enumerate(zip(rows.examples, prompts, strict=True))
    ]
