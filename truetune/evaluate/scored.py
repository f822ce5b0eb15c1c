"""Measures a run whose model gives scores: the classes of held-out texts, or which of two answers is the better one.

What it is compared with is what needs no reading at all. Of classes: the shares that they have among the trained rows,
so that the commonest is always taken. Of answers there is no such thing, and the run stands alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from truetune import engines
from truetune.data.example import Example
from truetune.engines import adapter
from truetune.engines.base import OutOfMemory, TrainEngine
from truetune.errors import InputError
from truetune.evaluate import confusion, intervals
from truetune.evaluate.confusion import Holds
from truetune.evaluate.material import Item, Material
from truetune.evaluate.measure import learned, too_small
from truetune.evaluate.metrics import Metric, Sums, ratio
from truetune.evaluate.preference import right
from truetune.evaluate.results import checkpoint, described
from truetune.evaluate.subject import Subject
from truetune.listener import Listener
from truetune.train.resolve import engine_spec

PART = 64
"""Rows that are scored between two signs of life."""
REWARD = {
    "accuracy": Metric("better answer scores higher", ratio, "higher", share=True),
    "margin": Metric("margin", ratio, "higher"),
    "loss": Metric("loss", ratio, "lower"),
}

Scores = NDArray[np.float64]
Side = tuple[dict[str, Sums], list[dict[str, Any]]]
"""The sums of every metric, and what is told of each row."""


def document(subject: Subject, material: Material, device: str, listener: Listener) -> dict[str, Any]:
    """The result of an evaluation, as `truetune.evaluate.results` describes it; of classes with `classes` [{name, rows,
    found, precision, recall, f1}] and `confusion` (rows: what holds; null where a text has any number of classes).

    Raises InputError `evaluate.unknown_class`, ResourceError where the memory does not hold a single row.
    """
    assert subject.run is not None
    resolved = subject.run.resolved
    classes = resolved.get("classes")
    examples = [example for item in material.items for example in item.examples]
    if classes:
        named = {item.row: item.where for item in material.items}
        examples = numbered(examples, material.data.get("classes"), classes, named)
    name = engine_of(resolved)
    choice = engines.module(name).choose(device, subject.dtype)
    with closing(opened(subject, name, choice.device, choice.dtype)) as engine:
        table = scored(engine, examples, listener)
    metrics, base, tuned, more = sorted_out(table, examples, resolved) if classes else compared(table)
    return {
        "schema": 1,
        "subject": described(subject),
        "checkpoint": checkpoint(subject),
        "task": subject.objective,
        "data": material.data,
        "settings": {"generate": False, "engine": name, "device": choice.device, "dtype": choice.dtype},
        "intervals": intervals.METHOD,
        "order": list(metrics),
        "figures": {name: figure(metric, name, base, tuned) for name, metric in metrics.items()},
        **more,
        "warnings": warnings(material, choice.warning),
        "rows": [row(item, place, base, tuned) for place, item in enumerate(material.items)],
    }


def engine_of(resolved: dict[str, Any]) -> str:
    """What trained the run, where that is installed here; torch has every model of the others."""
    trained = str(resolved["config"]["resources"]["engine"])
    return trained if engines.installed(trained) else "torch"


def opened(subject: Subject, name: str, device: str, dtype: str) -> TrainEngine:
    """The model as it was trained."""
    assert subject.run is not None
    spec = replace(engine_spec(subject.run.resolved, subject.adapter), device=device, dtype=dtype)
    if subject.adapter:  # one that began as a part of the weights is saved with twice the rank
        body = adapter.read_config(subject.adapter)
        own = {"r": body["r"], "alpha": body["lora_alpha"], "init": "default"}
        spec = replace(spec, method=replace(spec.method, **own))
    if subject.model:
        spec = replace(spec, model=subject.model)
    engine = engines.open_engine(name, spec)
    if subject.weights:
        engine.restore(subject.weights.parent)
    return engine


def scored(engine: TrainEngine, examples: Sequence[Example], listener: Listener) -> Scores:
    """[examples, texts · classes]"""
    parts = []
    for start in range(0, len(examples), PART):
        parts.append(fitting(engine, examples[start : start + PART]))
        done = min(start + PART, len(examples))
        listener("score", {"side": "tuned", "done": done, "total": len(examples)})
    return np.concatenate(parts)


def fitting(engine: TrainEngine, examples: Sequence[Example]) -> Scores:
    while True:
        try:
            return engine.scores(engine.prepare(examples)).astype(np.float64)
        except OutOfMemory:
            longest = max(examples, key=lambda example: example.tokens)
            if engine.token_budget < longest.tokens:
                raise too_small(longest.row, longest.tokens) from None
            engine.token_budget //= 2


def numbered(
    examples: Sequence[Example], theirs: Sequence[str] | None, classes: dict[str, Any], where: Mapping[int, str]
) -> list[Example]:
    """The examples with the run's numbers for their classes; `theirs` are the names by the numbers that they have,
    `where` is the place of each row."""
    names = list(classes["names"])
    theirs = names if theirs is None else theirs
    for example in examples:
        if unknown := [theirs[number] for number in example.label if theirs[number] not in names]:
            raise InputError(
                f"the row has the class {unknown[0]!r}, which the run has not learned",
                code="evaluate.unknown_class",
                where=where[example.row],
                hint=f"It knows {', '.join(names[:20])}. Leave the rows of other classes out.",
            )
        if not classes["several"] and len(example.label) != 1:
            raise InputError(
                "the row does not have exactly one class, and the run has learned to choose one",
                code="evaluate.unknown_class",
                where=where[example.row],
                hint="Give rows with one class each.",
            )
    return [
        replace(example, label=tuple(names.index(theirs[number]) for number in example.label)) for example in examples
    ]


def sorted_out(
    table: Scores, examples: Sequence[Example], resolved: dict[str, Any]
) -> tuple[dict[str, Metric], Side, Side, dict[str, Any]]:
    """Metrics, the commonest class, what the model finds, and what is told of each class."""
    classes, names = resolved["classes"], list(resolved["classes"]["names"])
    threshold = float(resolved["config"]["classification"]["threshold"])
    true = np.zeros(table.shape, bool)
    for row, example in enumerate(examples):
        true[row, list(example.label)] = True
    several = bool(classes["several"])
    common = np.log(np.array(classes["rows"]) / resolved["plan"]["examples"])
    if several:
        held = np.clip(np.exp(common), 1e-6, 1 - 1e-6)
        common = np.log(held) - np.log1p(-held)
    base = judged(np.tile(common, (len(table), 1)), true, names, threshold, several=several)
    tuned = judged(table, true, names, threshold, several=several)
    found = taken(table, threshold, several=several)
    more = {
        "classes": confusion.by_class(names, true, found),
        "confusion": None if several else confusion.matrix(true, found),
    }
    return confusion.METRICS, base, tuned, more


def judged(table: Scores, true: Holds, names: Sequence[str], threshold: float, *, several: bool) -> Side:
    """What scores [rows, classes] come to, where these classes hold."""
    shares, found = probabilities(table, several=several), taken(table, threshold, several=several)
    if several:
        losses = -np.where(true, -np.logaddexp(0, -table), -np.logaddexp(0, table)).mean(1)
    else:
        losses = np.logaddexp.reduce(table, axis=1) - table[true]
    said = [", ".join(names[int(number)] for number in np.flatnonzero(holds)) for holds in found]
    sure = [dict(zip(names, map(float, share), strict=True)) for share in shares]
    told = [{"answer": answer, "shares": share} for answer, share in zip(said, sure, strict=True)]
    return confusion.sums(true, found, losses), told


def probabilities(table: Scores, *, several: bool) -> Scores:
    if several:
        return np.asarray(np.exp(-np.logaddexp(0, -table)))
    return np.asarray(np.exp(table - np.logaddexp.reduce(table, axis=1)[:, None]))


def taken(table: Scores, threshold: float, *, several: bool) -> Holds:
    """The classes that scores decide for: the likeliest, or all that are likely enough."""
    if several:
        return np.asarray(probabilities(table, several=True) >= threshold)
    return np.asarray(np.eye(table.shape[1], dtype=bool)[table.argmax(1)])


def compared(table: Scores) -> tuple[dict[str, Metric], None, Side, dict[str, Any]]:
    """[pairs, 2]: the score of the better answer, and of the worse."""
    lead, ones = table[:, 0] - table[:, 1], np.ones(len(table))
    sums = {"accuracy": right(lead), "margin": lead, "loss": np.logaddexp(0, -lead)}
    told = [{"chosen": float(better), "rejected": float(worse)} for better, worse in table]
    return REWARD, None, ({name: np.column_stack([each, ones]) for name, each in sums.items()}, told), {}


def figure(metric: Metric, name: str, base: Side | None, tuned: Side) -> dict[str, Any]:
    found = intervals.figure(metric, base[0][name] if base else None, tuned[0][name])
    return {"title": metric.title, "better": metric.better or None, "headline": True, "verdict": "few"} | found


def row(item: Item, place: int, base: Side | None, tuned: Side) -> dict[str, Any]:
    body = {"row": item.row, "where": item.where, "question": item.question, "reference": item.reference}
    sides = {"base": base, "tuned": tuned}
    return body | {name: made(side, place) for name, side in sides.items() if side}


def made(side: Side, place: int) -> dict[str, Any]:
    sums, told = side
    values = {name: float(ratio(each[place])) for name, each in sums.items() if each.shape[1] == 2}
    return values | told[place]


def warnings(material: Material, device: str) -> list[str]:
    told = [device] if device else []
    if material.data["contaminated"]:
        told.append(learned(material.data["contaminated"], material.data["rows"]))
    return told
