"""What a run was made of, in lines of a label and a text: its figures, its data, its receipt, its settings."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from truetune.config.schema import defaults
from truetune.data import objectives
from truetune.report import rewards
from truetune.report.gather import Figures, at
from truetune.report.words import change, clock, counted, figure, line, minus, percent, size, thousands, written

Line = tuple[str, str]

FATES = {
    "rejected": "unreadable",
    "deduplicated": "duplicates",
    "contaminated": "also held out",
    "too_long": "too long",
    "unsupervised": "without a trained token",
    "sampled_out": "left out by their weight",
}
"""Why a row is set aside, as people say it."""


@dataclass(frozen=True)
class Compared:
    """A figure before and after the training."""

    name: str
    before: str
    after: str
    change: str


def compared(figures: Figures) -> list[Compared]:
    """Held-out loss of the start and of the result; the perplexity of a loss of tokens; how far answers are apart."""
    if figures.base is None or figures.result is None:
        return []
    losses = figures.base, figures.result[1]
    pairs: dict[str, tuple[float, ...]] = {"loss": losses}
    if objectives.of(figures.get("training.objective", "sft")).unit == "tokens":
        pairs["perplexity"] = tuple(math.exp(min(loss, 700.0)) for loss in losses)
    return [
        Compared(f"held-out {name}", figure(before), figure(after), change(before, after))
        for name, (before, after) in pairs.items()
    ] + list(apart(figures, figures.result[0]))


def apart(figures: Figures, step: int) -> Iterator[Compared]:
    """How far held-out answers are apart before the training and after a step, where the objective compares them."""
    rows = {row["step"]: row for row in figures.rows("eval")}
    for name, read in (("margin", rewards.margin), ("accuracy", rewards.accuracy)):
        before, after = read(rows[0]), read(rows[step])
        if before is not None and after is not None:
            difference = minus(f"{after - before:+.3g}")
            yield Compared(f"held-out {name}", figure(before), figure(after), difference)


def ran(figures: Figures) -> Iterator[Line]:
    """How the training went, in figures."""
    steps = f"{figures.steps:,} of {figures.planned:,}" if figures.steps < figures.planned else f"{figures.steps:,}"
    yield "steps", f"{steps}, {figures.steps / max(1, figures.planned) * figures.epochs:.3g} epochs"
    per_step = at(figures.resolved, "plan.step")
    if per_step:
        yield "examples in a step", f"{per_step:,}"
    if figures.result and figures.finished:
        yield "the result is step", f"{figures.result[0]:,}"
    labelled = figures.get("training.objective") == "classification"
    trained = None if labelled else figures.of("train", "supervised.counted")
    seen = f"{figures.tokens:,}" + (f", {trained:,} of them in the loss" if trained is not None else "")
    yield "tokens seen", seen
    yield "time in steps", clock(figures.seconds)
    if figures.seconds:
        yield "tokens per second", thousands(figures.tokens / figures.seconds)
    if figures.memory:
        yield "memory, at most", size(figures.memory)
    parameters, of = figures.of("train", "engine.trained_parameters"), figures.of("train", "engine.parameters")
    if parameters and of:
        yield "parameters trained", f"{parameters:,} of {of:,} ({percent(parameters / of)})"
    yield "device", f"{figures.get('resources.device', 'unknown')}, {figures.get('model.dtype', 'unknown')}"
    for row in figures.rows("resume"):
        yield "resumed", f"after step {row['step']:,}"


def data(figures: Figures) -> Iterator[Line]:
    """Every row once, every token."""
    body = figures.receipts.get("data")
    if not body:
        return
    for entry in body["inputs"]:
        yield "file", f"{line(entry['path'])}, {counted(entry['rows'], 'row')}, sha256 {entry['sha256'][:12]}…"
    rows, tokens, supervised = body["rows"], body["tokens"], body["supervised"]
    aside = ", ".join(f"{rows[fate]:,} {name}" for fate, name in FATES.items() if rows.get(fate))
    yield "rows", f"{rows['read']:,} read, {rows['used']:,} used; set aside: {aside or 'none'}"
    yield "split", f"{rows['train']:,} to train on, {rows['validation']:,} held out"
    yield "tokens", f"{tokens['train']:,} to train on, {learned(body, supervised['train'], tokens['train'])}"
    if rows.get("truncated"):
        yield "cut", f"{counted(rows['truncated'], 'row')}, {tokens['lost']:,} tokens lost"
    lengths = body["lengths"]
    yield "length", f"{lengths['min']:,} to {lengths['max']:,} tokens, {lengths['median']:,} in the middle"
    yield from _rendering(body)
    for finding in body.get("findings", []):
        yield "note", line(finding["message"])


def learned(body: dict[str, Any], supervised: int, tokens: int) -> str:
    """`350 of them supervised (40%)`; of labelled texts nothing is learned but the labels."""
    if body["objective"] == "classification":
        return f"{supervised:,} labels learned"
    return f"{supervised:,} of them supervised ({percent(supervised / max(1, tokens))})"


def _rendering(body: dict[str, Any]) -> Iterator[Line]:
    rendering, pretraining = body["rendering"], body["objective"] == "pretrain"
    digest = rendering.get("template_sha256")
    if digest:
        yield "template", f"{line(rendering['template'])}, sha256 {digest[:12]}…"
    what = "texts" if pretraining else "examples"
    token = f" ({line(rendering['end_token'])})" if rendering.get("end_token") else ""
    if body["end_of_turn_supervised"] is None:
        yield "classes", line(", ".join(body.get("classes", [])))
        return
    yield "end", f"learned{token} in {percent(body['end_of_turn_supervised'])} of the {what}"


def receipt(figures: Figures) -> Iterator[Line]:
    """What was promised and what reached the loss; what changed."""
    trained = figures.receipts.get("train")
    if not trained:
        return
    if "objective" in trained:
        yield "learned", f"{line(trained['objective'])} by {line(trained['method'])}"
    titles = objectives.counted(figures.of("data", "objective", "sft"))
    for what, title in zip(("supervised", "examples"), titles, strict=True):
        promised, counted_ = trained[what]["promised"], trained[what]["counted"]
        sign = "✓" if promised == counted_ else "✗"
        yield title, f"{sign} {counted_:,} reached the loss, {promised:,} were promised"
    tensors, norm = trained["changed_tensors"], trained["grad_norm"]
    sign = "✓" if tensors["changed"] == tensors["of"] else "✗"
    yield "tensors", f"{sign} {tensors['changed']:,} of {tensors['of']:,} changed"
    yield (
        "gradient",
        f"{'✓' if norm['min'] or norm.get('flat') else '✗'} norm from {figure(norm['min'])} to {figure(norm['max'])}",
    )
    base = trained["base"]
    revision = f" at {base['revision']}" if base.get("revision") else ""
    yield "base", f"{line(base['name'])}{revision}, {counted(len(base['files']), 'file')} by sha256"


def settings(figures: Figures) -> list[tuple[str, str, str]]:
    """Key, value and default of every setting that was chosen; where the run was put is none that matters."""
    usual, chosen = defaults(), figures.resolved.get("written") or {}
    found = []
    for section, values in chosen.items():
        if section == "output":
            continue
        if not isinstance(values, dict):
            if values != usual.get(section):
                found.append((section, shown(values), shown(usual.get(section))))
            continue
        before = usual.get(section) or {}
        found += [
            (f"{section}.{key}", shown(value), shown(before[key]))
            for key, value in values.items()
            if key in before and value != before[key]
        ]
    return found


def shown(value: Any) -> str:
    """A setting as train.yml holds it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {shown(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(shown, value))}]"
    if isinstance(value, float):
        return written(value) if abs(value) < 0.01 else f"{value:g}"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return line(value)
