"""The verb `evaluate`: what a training has changed, measured on rows it did not learn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truetune.api import wanted
from truetune.api.report import renew
from truetune.config.schema import CONTROL
from truetune.errors import ResourceError, UsageError
from truetune.listener import Listener, unheard

if TYPE_CHECKING:
    from truetune.api.handle import TrainedRun
    from truetune.engines.decoder import Sampling
    from truetune.evaluate.material import Material
    from truetune.evaluate.measure import Side
    from truetune.evaluate.subject import Subject
    from truetune.evaluate.voice import Voice


def evaluate(
    subject: str | Path | TrainedRun = "last",
    *,
    checkpoint: str | None = None,
    data: str | Path | Sequence[str] = (),
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    generate: bool = True,
    temperature: float = 0.0,
    max_new_tokens: int | None = None,
    seed: int = 0,
    slots: int = 8,
    device: str = "auto",
    out: str | Path | None = None,
    listener: Listener = unheard,
) -> dict[str, Any]:
    """Measure base and tuned on the same rows; the document is described in `truetune.evaluate.results`.

    subject    a run (`last`, an id, `RUN:best`, what `train` returned), an adapter's folder, or a model
    checkpoint `best`, `last` or `step-N` of the run; without one, its result
    data       file, folder or pattern with rows, or several; by default the rows that the run held out
    columns    the names of its columns, ours first: {"prompt": "question_de"}; as `data.columns` of train.yml
    limit      most rows, spread over all of them
    generate   whether answers are written and compared with the references (texts: never)
    temperature, max_new_tokens, seed   how; 0 is greedy, the length is by default that of the run's `generation`
    slots      answers that are written at once
    out        a file for the document as well; a run's own goes to `eval/`, with a receipt
    listener   called with (kind, figures): `score`, `answer` {side, done, total}; `warning` {text}; `saved` {path}

    Raises InputError, UsageError, and ResourceError where the memory does not hold a row. Ctrl-C leaves nothing behind.
    """
    names, device = files(data), wanted.device(device)
    refuse(names, columns, out, limit=limit, slots=slots)
    from truetune.evaluate.subject import find_subject

    found = find_subject(wanted.address(subject), checkpoint=checkpoint)
    try:  # only now: its libraries take seconds to import, and most mistakes are in the address
        from truetune.evaluate import material, measure
    except ModuleNotFoundError as error:
        raise missing(error) from None
    from truetune.evaluate.voice import Voice

    rows = material.gather(found, names, limit, columns=columns)
    if found.scores:
        from truetune.evaluate import scored

        document = scored.document(found, rows, device, listener)
        for text in document["warnings"]:
            listener("warning", {"text": text})
        keep(found, rows, document, out, listener)
        return document
    with Voice(found, device=device, slots=slots) as voice:
        drawn = {"temperature": float(temperature), "max_new_tokens": max_new_tokens, "seed": seed}
        sampling = voice.sampling(**drawn) if generate else None
        document = told(voice, rows, sampling, measure.sides(voice, rows, sampling, listener), listener)
    keep(found, rows, document, out, listener)
    return document


def told(
    voice: Voice, rows: Material, sampling: Sampling | None, sides: Mapping[str, Side], listener: Listener
) -> dict[str, Any]:
    """The document of what was measured; what is doubtful in it is said."""
    from truetune.evaluate import measure, results

    warnings = measure.warnings(voice, rows, sampling, sides)
    document = results.document(voice, rows, sampling, sides, warnings)
    for text in warnings:
        listener("warning", {"text": text})
    return document


def keep(found: Subject, rows: Material, document: dict[str, Any], out: str | Path | None, listener: Listener) -> None:
    """The document into the run that was measured, with a receipt, and to the file that was asked for."""
    from truetune.evaluate import results

    if found.run:
        path, stage = results.save(found, rows, document)
        if found.trained:
            renew(found.run, listener)
        listener("saved", {"path": str(path), "receipt": stage})
    if out:
        results.write(Path(out), document)
        listener("saved", {"path": str(out), "receipt": None})


def refuse(names: Sequence[str], columns: Any, out: str | Path | None, **numbers: Any) -> None:
    """What cannot be carried out, before the work. Raises UsageError `usage.bad_value`, InputError `data.no_folder`."""
    refuse_columns(columns, names)
    wanted.refuse_nowhere("out", out)
    for what, number in numbers.items():
        refuse_none_at_all(what, number)


def files(data: Any) -> list[str]:
    """The files, folders and patterns that were named. Raises UsageError `usage.bad_value` for what is no name."""
    names = [data] if isinstance(data, str | Path) else [] if data is None else data
    if not isinstance(names, Sequence) or not all(isinstance(name, str | Path) for name in names):
        raise no_file(data)
    if bad := [name for name in map(str, names) if not name.strip() or CONTROL.search(name)]:
        raise no_file(bad[0])
    return [str(name) for name in names]


def no_file(name: Any) -> UsageError:
    return UsageError(
        f"{name!r} is no name of a file with rows",
        code="usage.bad_value",
        where="data",
        hint="Name a file, a folder or a pattern, such as --data test.jsonl.",
    )


def refuse_columns(columns: Any, names: Sequence[str]) -> None:
    if columns is None or (columns == {}):
        return
    if not isinstance(columns, Mapping) or not all(
        isinstance(one, str) and one for pair in columns.items() for one in pair
    ):
        hint = "Give our names with yours: columns={'prompt': 'question', 'response': 'answer'}."
        raise UsageError(f"{columns!r} names no columns", code="usage.bad_value", where="columns", hint=hint)
    if not names:
        raise UsageError(
            "columns are named, and no file that has them",
            code="usage.bad_value",
            where="columns",
            hint="Name the file as well: --data FILE. Held-out rows are read as the training read them.",
        )


def refuse_none_at_all(what: str, number: Any) -> None:
    if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < 1):
        hint = "Give a whole number, 1 or more."
        raise UsageError(f"{number!r} cannot be used", code="usage.bad_value", where=what, hint=hint)


def missing(error: ModuleNotFoundError) -> ResourceError:
    return ResourceError(
        f"evaluation needs {error.name}, which is not installed",
        code="evaluate.not_installed",
        hint='Install it: pip install "truetune[evaluate]".',
    )
