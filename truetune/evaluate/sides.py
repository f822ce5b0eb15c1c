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
from truetune.runs.metrics import Metrics
from truetune.train.reopen import reopen
from truetune.train.samples import Samples, prompt_length, texts


@dataclass(frozen=True)
class Rows:
    """Held-out examples, and how they are read."""

    examples: Sequence[Example]
    reader: Samples


def check_count(count: int) -> None:
    """Raises UsageError `generation.bad_value` for a number of rows that cannot be asked."""
    if not isinstance(count, int) or count < 1:
        raise UsageError(
            f"{count!r} cannot be used", code="generation.bad_value", where="count", hint="Give 1 or more."
        )


def held_out(subject: Subject, count: int) -> Rows:
    """The first held-out rows of the subject's run. Raises UsageError, InputError (`generation.no_rows`), and what
    `reopen` raises where the data has changed."""
    if subject.run is None or not subject.tuned:
        raise UsageError(
            f"{subject.name} is no run, so there are no rows of its own to ask",
            code="generation.no_rows",
            hint='Name a run (`ft runs list`), or ask it yourself: ft chat MODEL "…".',
        )
    session = reopen(subject.run)
    examples = [session.prepared.validation[i] for i in range(min(count, len(session.prepared.validation)))]
    if not examples:
        raise InputError(
            "this run held out no rows",
            code="generation.no_rows",
            where=subject.run.id,
            hint='Train with data.validation, or ask it yourself: ft chat RUN "…".',
        )
    return Rows(
        examples,
        Samples(Metrics(subject.run.folder / "samples.jsonl"), examples, 0, texts(session.tokenizer, session.template)),
    )


def side_by_side(voice: Voice, rows: Rows, **chosen: Any) -> list[dict[str, str]]:
    """{question, before, after, row} for each row: asked as it was trained, answered by the base and the tuned model,
    and what the row itself answers. `chosen` is how answers are drawn."""
    cuts = [prompt_length(example) for example in rows.examples]
    prompts = [example.ids[:cut].tolist() for example, cut in zip(rows.examples, cuts, strict=True)]
    drawn = voice.sampling(**chosen)
    with out_of_memory():
        before, after = (dict(voice.replies(prompts, drawn, tuned=tuned)) for tuned in (False, True))
    found = []
    for place, (example, cut) in enumerate(zip(rows.examples, cuts, strict=True)):
        said = rows.reader.row(example, cut, list(after[place].ids))
        found.append(
            {
                "question": said["question"],
                "before": before[place].text,
                "after": after[place].text,
                "row": said["reference"],
            }
        )
    return found
