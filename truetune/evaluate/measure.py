"""Asks a subject, before and after its training: how likely it finds the rows, and what it answers by itself.

What comes out are sums per row (`metrics.py`), in the order of the rows, whatever order they were worked on in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from truetune.data.example import Example
from truetune.engines.base import OutOfMemory, cut
from truetune.engines.decoder import Decoder, Sampling
from truetune.errors import ResourceError
from truetune.evaluate import metrics, preference
from truetune.evaluate.material import Item, Material
from truetune.evaluate.metrics import METRICS, Sums
from truetune.evaluate.voice import Reply, Voice
from truetune.listener import Listener
from truetune.train.reading import PARTIAL

BUDGET = 4096
"""Most tokens that are scored in one call."""


@dataclass(frozen=True)
class Side:
    """What one of the two, base or tuned, made of the rows."""

    sums: Mapping[str, Sums]
    """Metric -> [rows, k]."""
    replies: Sequence[Reply | None]
    """Per row; None where it was not asked."""


def sides(voice: Voice, material: Material, sampling: Sampling | None, listener: Listener) -> dict[str, Side]:
    """`base`, and `tuned` where there is something trained. Without `sampling` nothing is generated.

    Raises ResourceError where the memory does not hold a single row.
    """
    names = ("base", "tuned") if voice.subject.tuned else ("base",)
    base = compared(voice, material, listener, "base") if material.task == "preference" else None
    return {name: side(voice, material, sampling, listener, name, base) for name in names}


def compared(voice: Voice, material: Material, listener: Listener, name: str) -> preference.Floats:
    """What one side thinks of all answers, for rows that compare them."""
    decoder, adapter = voice.decoder(name == "tuned")
    total = {"side": name, "total": len(material.items)}
    return preference.table(
        material.items,
        lambda examples: fitting(decoder, examples, adapter),
        BUDGET,
        lambda done: listener("score", total | {"done": done}),
    )


def side(
    voice: Voice,
    material: Material,
    sampling: Sampling | None,
    listener: Listener,
    name: str,
    base: preference.Floats | None = None,
) -> Side:
    """`base`: of rows that compare answers, what the base thinks of them."""

    def tell(kind: str, done: int) -> None:
        listener(kind, {"side": name, "done": done, "total": len(material.items)})

    tuned = name == "tuned"
    if base is None:
        sums = score(voice, material, tuned, tell)
    else:
        now = compared(voice, material, listener, name) if tuned else base
        resolved = voice.subject.run.resolved if voice.subject.run and voice.subject.trained else None
        sums = preference.sums(preference.settings(resolved, material.items[0]), material.items, now, base)
    replies: list[Reply | None] = [None] * len(material.items)
    if sampling and material.task != "text":
        replies = answer(voice, material.items, sampling, tuned, tell)
        sums |= of_answers(material.items, replies)
    return Side(sums, replies)


def score(voice: Voice, material: Material, tuned: bool, tell: Callable[[str, int], None]) -> dict[str, Sums]:
    """Loss and perplexity of every row over its trained tokens; of texts bits per byte too."""
    decoder, adapter = voice.decoder(tuned)
    places = [place for place, item in enumerate(material.items) for _ in item.examples]
    examples = [example for item in material.items for example in item.examples]
    found = np.zeros((len(material.items), 2))
    left = np.bincount(places, minlength=len(material.items))
    for part in cut(examples, BUDGET):
        chosen = [examples[at] for at in part]
        for at, logs in zip(part, fitting(decoder, chosen, adapter), strict=True):
            weights = examples[at].weights.astype(np.float64)
            found[places[at]] += -(weights * logs).sum(), weights.sum()
            left[places[at]] -= 1
        tell("score", int((left == 0).sum()))
    sums = {"loss": found, "perplexity": found}
    if material.task == "text":
        lengths = [float(size(voice, item)) for item in material.items]
        sums["bits_per_byte"] = np.column_stack([found[:, 0], lengths])
    return sums


def fitting(decoder: Decoder, examples: Sequence[Example], adapter: str | None) -> list[Any]:
    """The log-probabilities of these examples, in halves where the memory does not hold them together."""
    try:
        return list(decoder.score(examples, adapter))
    except OutOfMemory:
        if len(examples) == 1:
            raise too_small(examples[0].row, examples[0].tokens) from None
    middle = len(examples) // 2
    return fitting(decoder, examples[:middle], adapter) + fitting(decoder, examples[middle:], adapter)


def too_small(row: int, tokens: int) -> ResourceError:
    return ResourceError(
        f"the device's memory does not hold row {row + 1} ({tokens} tokens) even alone",
        code="memory.example_too_long",
        hint="Leave the longest rows out, or measure on another device: --device cpu.",
    )


def size(voice: Voice, item: Item) -> int:
    """Bytes of what is predicted of a text: all but its first token, where no other begins it; the end is no byte."""
    ids = np.concatenate([example.ids[example.weights > 0] for example in item.examples])
    text = voice.subject.tokenizer.decode(ids.tolist(), skip_special=True)
    return len(text.replace(PARTIAL, "?").encode())  # the rest of a character that the first token began


def answer(
    voice: Voice, items: Sequence[Item], sampling: Sampling, tuned: bool, tell: Callable[[str, int], None]
) -> list[Reply | None]:
    """An answer to every row whose prompt leaves room for one."""
    replies: list[Reply | None] = [None] * len(items)
    prompts = [voice.prompt(item.messages) if item.messages else [] for item in items]
    asked = [place for place, ids in enumerate(prompts) if 0 < len(ids) < voice.context]
    try:
        written = voice.replies([prompts[place] for place in asked], sampling, tuned=tuned)
        for done, (at, reply) in enumerate(written, 1):
            replies[asked[at]] = reply
            tell("answer", done)
    except OutOfMemory:
        raise ResourceError(
            f"the device's memory does not hold {voice.spec.slots} answers at once",
            code="memory.slots",
            hint="Ask for fewer at a time: --slots 1.",
        ) from None
    return replies


def of_answers(items: Sequence[Item], replies: Sequence[Reply | None]) -> dict[str, Sums]:
    """Sums of the metrics of answers; zeros, which count as no row, where there is none."""
    names = [name for name in METRICS if name not in metrics.SCORED]
    rows: dict[str, list[list[float]]] = {name: [] for name in names}
    for item, reply in zip(items, replies, strict=True):
        found = metrics.of_answer(reply.text, item.reference, reply.reason == "stop") if reply else {}
        for name in names:
            rows[name].append(found.get(name, [0.0] * METRICS[name].width))
    return {name: np.array(values) for name, values in rows.items()}


def warnings(voice: Voice, material: Material, sampling: Sampling | None, found: Mapping[str, Side]) -> list[str]:
    """What a person should know before believing the figures."""
    told: list[str] = [voice.warning] if voice.warning else []
    data = material.data
    if data["contaminated"]:
        told.append(learned(data["contaminated"], data["rows"]))
    if data["contaminated"] is None and voice.subject.trained:
        told.append("the data of the training has moved or changed: none can tell whether these rows were trained on")
    if data["left_out"]:
        lost = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in data["left_out"].items())
        told.append(f"rows that cannot be measured: {lost}")
    if sampling and material.task != "text":
        encode, limit = voice.subject.tokenizer.encode, sampling.max_new_tokens
        long = sum(len(encode(item.reference)) >= limit for item in material.items)
        if long:
            some = "1 reference is" if long == 1 else f"{long} references are"
            told.append(f"{some} longer than the {limit} tokens that an answer may have")
        asked = zip(material.items, found["base"].replies, strict=True)
        silent = sum(reply is None and bool(item.messages) for item, reply in asked)
        if silent:
            some = (
                "1 prompt fills the model's context and was"
                if silent == 1
                else f"{silent} prompts fill the model's context and were"
            )
            told.append(f"{some} not answered")
    return told


def learned(trained: int, rows: int) -> str:
    if rows == 1:
        return "this row was trained on: it is not held out"
    verb = "was trained on: it is" if trained == 1 else "were trained on: they are"
    return f"{trained} of these {rows} rows {verb} not held out"
