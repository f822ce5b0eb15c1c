"""The verb `benchmark`: how fast and how well several models answer over one base, and earlier results side by side."""

from __future__ import annotations

import fnmatch
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from truetune.api import wanted
from truetune.errors import InputError, ResourceError, UsageError
from truetune.listener import Listener, unheard

if TYPE_CHECKING:
    from truetune.evaluate.subject import Subject
    from truetune.serve.opening import Wanted

BASE = "base"
SETTINGS = ("requests", "concurrency", "max_new_tokens", "rounds", "prompts")
"""What must be equal for two results to be compared."""


def benchmark(
    subject: Any = "last",
    *,
    compare: Sequence[Any] = (),
    prompts: str | Path | None = None,
    requests: int = 16,
    concurrency: int = 4,
    max_new_tokens: int = 64,
    rounds: int = 2,
    device: str = "auto",
    save: str | None = None,
    listener: Listener = unheard,
) -> dict[str, Any]:
    """Measure how a model answers, beside others over the same base in memory; the result is saved.

    subject      a run, an adapter by name, a folder, or a model
    compare      others over the same base, and `base` for the base alone
    prompts      a `.txt` file with one in each line, or a file with rows, whose references then count; by default the
                 rows that the run held out, else a few questions of our own
    requests     of each model in each round, `concurrency` of them at once
    save         the result's name; by default the subject's with the time
    listener     called with `answer` {side, done, total}, `warning` {text}, `saved` {path}

    {schema, name, time, machine, engine, device, settings: {requests, concurrency, max_new_tokens, rounds, prompts,
    questions}, peak_bytes, models: [{name, figures of `serve.speed.figures`, quality}], saved, plot}

    Raises UsageError `benchmark.name`, `benchmark.bad_value`, `benchmark.twice`, `serve.other_base`, InputError
    `benchmark.no_prompts`, and what `evaluate` and `serve` raise for names and rows.
    """
    wanted.device(device)
    load = {"requests": requests, "concurrency": concurrency, "max_new_tokens": max_new_tokens, "rounds": rounds}
    _refuse_numbers(load)
    if save is not None:
        _place(save)
    found = _subjects(subject, compare)
    speed, questions, opening = _modules()
    asked = questions.gather(found[0][1].subject, str(prompts) if prompts else None, requests)
    for text in [f"{asked.source}: measures speed, and nothing about quality"] if asked.source == "built in" else []:
        listener("warning", {"text": text})
    room = opening.Room(slots=concurrency, queue=concurrency, cache=0)  # a prompt that is known would be no work
    service, warning = opening.opened([each for _, each in found], _nothing, device=device, room=room)
    with service.scheduler as scheduler:
        if warning:
            listener("warning", {"text": warning})
        models = {name: service.names.find(name) or service.base for name, _ in found}

        def tell(name: str, done: int, total: int) -> None:
            listener("answer", {"side": name, "done": done, "total": total})

        measured = speed.measure(scheduler, models, asked.asked, speed.Load(**load), tell)
        facts = scheduler.decoder.describe()
    document = {
        "schema": 1,
        "name": save or f"{_slug(found[0][0])}-{time.strftime('%Y%m%d-%H%M%S')}",
        "time": time.time(),
        "machine": {"cores": os.cpu_count(), "load_before": os.getloadavg()[0]},
        "engine": facts["engine"],
        "device": facts["device"],
        "settings": load | {"prompts": asked.source, "questions": len(asked.asked)},
        "peak_bytes": _peak(),
        "models": [{"name": name, **figures} for name, figures in measured.items()],
    }
    return _keep(document, listener)


def benchmark_compare(pattern: str = "*", *, plot: str | Path | None = None) -> dict[str, Any]:
    """Saved results whose names match: {schema, results: [documents, oldest first], alike: bool, differ: [settings],
    plot}. `plot` is a PNG file to draw them into.

    Raises InputError `benchmark.none`.
    """
    names = sorted(path.stem for path in _folder().glob("*.json"))
    chosen = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
    if not chosen:
        raise InputError(
            f"no saved result is called like `{pattern}`",
            code="benchmark.none",
            where=str(_folder()),
            hint=f"Saved: {', '.join(names[-8:])}." if names else "Measure one: ft benchmark NAME.",
        )
    from truetune.runs import jsonfile

    results = sorted((jsonfile.load(_folder() / f"{name}.json") for name in chosen), key=lambda each: each["time"])
    differ = [key for key in SETTINGS if len({str(each["settings"].get(key)) for each in results}) > 1]
    if plot:
        wanted.refuse_nowhere("plot", plot)
        _draw(results, Path(plot))
    return {
        "schema": 1,
        "results": results,
        "alike": not differ,
        "differ": differ,
        "plot": str(plot) if plot else None,
    }


def _subjects(subject: Any, others: Sequence[Any]) -> list[tuple[str, Wanted]]:
    """What is measured, each under the name that the results tell it by."""
    from truetune.evaluate.subject import find_subject
    from truetune.evaluate.voice import refuse_scores
    from truetune.serve.opening import Wanted

    first = find_subject(wanted.address(subject))
    refuse_scores(first)
    found = [(_title(subject, first), first)]
    for each in others:
        if each == BASE and not first.adapter:
            raise UsageError(
                "its base is not in memory beside it: every weight was trained, or it is a base itself",
                code="benchmark.base",
                where="compare",
                hint="Measure the base by itself, and compare the two: ft benchmark compare.",
            )
        one = None if each == BASE else find_subject(wanted.address(each))
        found.append((BASE, first) if one is None else (_title(each, one), one))
    names = [name for name, _ in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(
            f"{twice} is named twice", code="benchmark.twice", where="compare", hint="Name each model once."
        )
    return [(name, Wanted(() if name == BASE or not each.tuned else (name,), each)) for name, each in found]


def _title(address: Any, subject: Subject) -> str:
    """What was typed, where that is a name; else the registered one, the run's id, or the folder's name."""
    from truetune.registry.catalog import Catalog

    if isinstance(address, str) and "/" not in address and address != "last":
        return address
    known = Catalog().of_run(subject.run.id, subject.run.folder) if subject.run and ":" not in subject.name else None
    return str(known["address"]) if known else Path(subject.name).name


def _nothing(text: str) -> Subject:
    raise InputError("nothing is loaded here", code="serve.outside", where=text, hint="Name it in `compare`.")


def _refuse_numbers(load: dict[str, int]) -> None:
    for name, number in load.items():
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise UsageError(
                f"{number!r} cannot be used", code="benchmark.bad_value", where=name, hint="Give 1 or more."
            )


def _modules() -> tuple[Any, Any, Any]:
    from truetune.api.evaluate import missing

    try:
        from truetune.serve import opening, questions, speed
    except ModuleNotFoundError as error:
        raise missing(error) from None
    return speed, questions, opening


def _peak() -> int:
    """Most bytes that this process has held, the libraries included."""
    import resource
    import sys

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _slug(name: str) -> str:
    from truetune.runs.run import slug

    return slug(name)[:48] or "benchmark"


def _folder() -> Path:
    from truetune import paths

    return paths.home() / "benchmarks"


def _place(name: str) -> Path:
    """Where a result of this name goes. Raises UsageError `benchmark.name`, `benchmark.exists`."""
    from truetune.runs.run import NAME

    if not NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is no name",
            code="benchmark.name",
            where="save",
            hint="Names have small letters, digits, `.`, `_` and `-`, and begin with a letter or digit.",
        )
    place = _folder() / f"{name}.json"
    if place.exists():
        raise UsageError(
            f"there is a result called {name}, and nothing is written over",
            code="benchmark.exists",
            where="save",
            hint=f"Choose another name, or remove it: {place}.",
        )
    return place


def _keep(document: dict[str, Any], listener: Listener) -> dict[str, Any]:
    from truetune.runs import durable

    place = _place(document["name"])
    place.parent.mkdir(parents=True, exist_ok=True)
    picture = place.with_suffix(".png")
    try:
        _draw([document], picture)
    except ResourceError:  # matplotlib is not installed: the figures stand without a picture
        picture = None  # type: ignore[assignment]
    document |= {"saved": str(place), "plot": str(picture) if picture else None}
    durable.write_json(place, document)
    for path in filter(None, (document["saved"], document["plot"])):
        listener("saved", {"path": path})
    return document


def _draw(results: Sequence[dict[str, Any]], path: Path) -> None:
    from truetune.runs import durable

    try:
        from truetune.report import latency
    except ModuleNotFoundError as error:
        raise ResourceError(
            f"the plot needs {error.name}, which is not installed",
            code="benchmark.not_installed",
            where="plot",
            hint='Install it: pip install "truetune[report]".',
        ) from None
    durable.write(path, latency.png(results))
