"""Two runs beside each other: settings that differ, and the figures of both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from truetune.errors import InputError
from truetune.runs import receipt
from truetune.runs.run import Run
from truetune.runs.status import Status

Pair = list[Any]
"""[of one run, of the other]; None where it has none."""
FROM = {
    "train": ("steps", "tokens", "supervised.counted", "examples.counted", "loss.first", "loss.last", "memory.peak"),
    "eval": ("base.loss", "tuned.loss", "base.perplexity", "tuned.perplexity"),
    "data": ("rows.train", "rows.validation"),
    receipt.MADE: ("figures.distance", "figures.energy", "figures.kl"),
}
"""Stage -> what of its receipt is a figure."""
LIVE = ("loss", "eval_loss", "tokens_per_second")
"""Figures of a run's status: of one that goes on, and of what receipts don't say."""


def settings(one: Run, other: Run) -> dict[str, Pair]:
    """Every setting whose value differs, dotted, with the model, the data and the template by their sha256."""
    return differing(chosen(one), chosen(other))


def figures(one: Run, other: Run) -> dict[str, Pair]:
    """Every figure that one of them has."""
    sides = [dict(measured(run)) for run in (one, other)]
    return {key: [side.get(key) for side in sides] for key in dict.fromkeys([*sides[0], *sides[1]])}


def chosen(run: Run) -> dict[str, Any]:
    resolved, stages = run.resolved, receipts(run)
    model = resolved.get("model", {})
    found = flat(resolved.get("config", {}))
    found |= {"model": model.get("name"), "model.revision": model.get("revision")}
    found |= flat({"made": resolved.get("made", {})})
    inputs = stages.get("data", {}).get("inputs") or []
    found |= {"data": ", ".join(str(entry.get("sha256", ""))[:12] for entry in inputs) or None}
    template = (stages.get("data", {}).get("rendering") or {}).get("template_sha256")
    return found | {"template": template and template[:12]}


def measured(run: Run) -> Iterator[tuple[str, Any]]:
    status, stages = Status.read(run), receipts(run)
    yield "state", status.state
    yield "step", status.step
    if status.started and status.finished:
        yield "seconds", round(status.finished - status.started, 1)
    yield from ((name, status.figures[name]) for name in LIVE if status.figures.get(name) is not None)
    for stage, keys in FROM.items():
        body = flat(stages.get(stage, {}))
        yield from ((f"{stage}.{key}", body[key]) for key in keys if body.get(key) is not None)


def receipts(run: Run) -> dict[str, dict[str, Any]]:
    with suppress(InputError):  # none yet, or a damaged one
        return receipt.read(run)
    return {}


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Pair]:
    pairs = {key: [one.get(key), other.get(key)] for key in dict.fromkeys([*one, *other])}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` -> `{"a.b": 1}`."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{above}{key}.") if isinstance(value, dict) else {above + key: value}
    return found
