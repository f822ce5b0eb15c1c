"""Stage by stage, what an export's program does beside what was trained. The first stage that fails is the one that
broke it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from truetune.export import probes
from truetune.export.bounds import BOUNDS, DECIDED, GREEDY, TIE, TOLERANCE
from truetune.export.runtime import Logs, Messages, Refused, Runtime

TEMPLATE, TOKENIZER, ENDS, BASE, WEIGHTS, RUNTIME, QUANT = (
    "template",
    "tokenizer",
    "ends",
    "merge base",
    "weights",
    "runtime",
    "quantisation",
)
ORDER = (TEMPLATE, TOKENIZER, ENDS, BASE, WEIGHTS, RUNTIME, QUANT)
SHORT = 96
"""Most tokens of a prompt that is answered and compared whole: every place of it costs a whole distribution."""
ANSWERED = 2
"""Prompts that are answered."""

State = Literal["ok", "failed", "not checked"]


@dataclass(frozen=True)
class Stage:
    """What was found of one stage; `figures` are JSON-ready."""

    name: str
    state: State
    detail: str
    figures: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "state": self.state, "detail": self.detail, **self.figures}


@dataclass(frozen=True)
class Asked:
    """What both sides are asked."""

    talks: Sequence[Messages]
    prompts: Sequence[Sequence[int]]
    """Ids that are answered."""
    texts: Sequence[Sequence[int]]
    """Ids whose every place is compared: drawn ones, then each prompt with the trained answer."""


@dataclass(frozen=True)
class Said:
    """What a side answers; None where it cannot be asked."""

    name: str
    ids: Sequence[list[int] | str | None]
    """Of each conversation; a text is why the template refuses it."""
    encoded: Sequence[list[int] | None]
    ends: frozenset[int] | None
    answers: Sequence[list[int] | None]
    logs: Sequence[Logs] | None
    tolerance: float = TOLERANCE
    stopped: Mapping[int, bool | None] = field(default_factory=dict)
    """End of the trained side -> whether the program really stops there."""
    closing: frozenset[int] = frozenset()
    """Of the trained side, the ends that its answers were trained to close with."""


def prepare(runtime: Runtime, talks: Sequence[Messages], vocabulary: int) -> tuple[Asked, Said]:
    """Ask the trained side, which decides what the other one is asked. `vocabulary`: tokens that the model knows."""
    ids = [rendered(runtime, talk) for talk in talks]
    encoded = [runtime.encode(text) for text in probes.TEXTS]
    drawn, told = probes.ids(vocabulary), [one for one in (*ids, *encoded) if isinstance(one, list)]
    known = [one for one in told if 0 < len(one) <= SHORT and max(one) < vocabulary]
    prompts = (known or drawn)[:ANSWERED]
    answers = [runtime.answer(prompt, GREEDY) for prompt in prompts]
    texts = [*drawn]
    texts += [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True) if answer]
    said = Said(runtime.name, ids, encoded, runtime.ends(), answers, runtime.logs(texts), closing=runtime.closing())
    return Asked(talks, prompts, texts), said


def hear(runtime: Runtime, asked: Asked, ends: Iterable[int] | None) -> Said:
    """Ask the export's program the same. `ends` are those of the trained side."""
    stopped = {end: runtime.stops(asked.prompts[0], end) for end in sorted(ends or ())}
    return Said(
        runtime.name,
        [rendered(runtime, talk) for talk in asked.talks],
        [runtime.encode(text) for text in probes.TEXTS],
        runtime.ends(),
        [runtime.answer(prompt, GREEDY) for prompt in asked.prompts],
        runtime.logs(asked.texts),
        runtime.tolerance,
        stopped,
    )


def rendered(runtime: Runtime, talk: Messages) -> list[int] | str | None:
    try:
        return runtime.ids(talk)
    except Refused as error:
        return str(error) or "no reason given"


def spoken(trained: Said, found: Said) -> list[Stage]:
    """Template, tokenizer, ends. Where the tokenizer cuts plain texts otherwise, no template is to blame."""
    cut, said = tokenizer(trained, found), template(trained, found)
    if cut.state == said.state == "failed":
        said = Stage(TEMPLATE, "not checked", "the tokenizer is broken")
    return [said, cut, ends(trained, found)]


def template(trained: Said, found: Said) -> Stage:
    """The same ids for every conversation that the trained side's template takes."""
    pairs = [
        (number, one, other)
        for number, (one, other) in enumerate(zip(trained.ids, found.ids, strict=True), 1)
        if isinstance(one, list) and other is not None
    ]
    if not any(isinstance(one, list) for one in trained.ids):
        return Stage(TEMPLATE, "not checked", "what was trained brings no chat template")
    if not pairs:
        return Stage(TEMPLATE, "not checked", f"{found.name} cannot be asked for its template")
    for number, one, other in pairs:
        if isinstance(other, str):
            return Stage(TEMPLATE, "failed", f"{found.name} does not render conversation {number}: {other[:120]}")
        if one != other:
            return Stage(TEMPLATE, "failed", f"conversation {number} has other ids: {difference(one, other)}")
    figures = {"conversations": len(pairs), "tokens": sum(len(one) for _, one, _ in pairs)}
    return Stage(TEMPLATE, "ok", f"{len(pairs)} conversations have the same {figures['tokens']:,} ids", figures)


def difference(one: Sequence[int], other: Sequence[int]) -> str:
    at = next((at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), None)
    if at is None:
        return f"{len(one)} tokens were trained, {len(other)} are made"
    return f"token {at + 1} is {other[at]}, and {one[at]} was trained"


def tokenizer(trained: Said, found: Said) -> Stage:
    """The same ids for plain texts."""
    pairs = [
        (text, one, other)
        for text, one, other in zip(probes.TEXTS, trained.encoded, found.encoded, strict=True)
        if one is not None and other is not None
    ]
    if not pairs:
        return Stage(TOKENIZER, "not checked", f"{found.name} cannot be asked for ids")
    for text, one, other in pairs:
        if one != other:
            return Stage(TOKENIZER, "failed", f"{text[:30]!r} has other ids: {difference(one, other)}")
    figures = {"texts": len(pairs), "tokens": sum(len(one) for _, one, _ in pairs)}
    return Stage(TOKENIZER, "ok", f"{len(pairs)} texts have the same {figures['tokens']:,} ids", figures)


def ends(trained: Said, found: Said) -> Stage:
    """What closes the trained answers is one of the program's ends, and really ends its answers. Other tokens at which
    the trained side stops, of its model's config files, are told where the program goes on behind them."""
    if not trained.closing:
        return Stage(ENDS, "not checked", "what was trained knows no end")
    figures = {"trained": sorted(trained.ends or ()), "found": None if found.ends is None else sorted(found.ends)}
    lost = trained.closing - found.ends if found.ends is not None else frozenset()
    deaf = {end for end, stopped in found.stopped.items() if stopped is False}
    if missing := sorted(lost | (deaf & trained.closing)):
        detail = f"{found.name} does not stop at token {missing[0]}, which ends the trained answers"
        return Stage(ENDS, "failed", detail, figures)
    really = sorted(end for end, stopped in found.stopped.items() if stopped)
    if found.ends is None and not really:
        return Stage(ENDS, "not checked", f"{found.name} cannot be asked where it stops", figures)
    detail = f"{found.name} stops at {listed(trained.closing)}"
    detail += f", tried at {listed(really)}" if really else ""
    detail += f"; it does not at {listed(deaf)}" if deaf else ""
    return Stage(ENDS, "ok", detail, figures | {"tried": len(found.stopped)})


def listed(ids: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(ids)))


@dataclass(frozen=True)
class Distance:
    """How far the distributions of two sides lie apart, over the tokens that both tell. `largest` and `mean` are of
    log-probabilities, in nats up to one nat, beyond that as a share; `kl` is the mean of KL(trained ‖ found) in nats;
    `top1` the share of places with the same likeliest token, `decided` that among the places where the trained side's
    leads by `DECIDED` nats (None where there is none)."""

    tokens: int
    largest: float
    mean: float
    kl: float
    top1: float
    decided: float | None

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


def apart(one: Sequence[Logs], other: Sequence[Logs]) -> Distance:
    """From the `Logs` of the same texts. Where the vocabularies are padded differently, the shorter one counts."""
    rows = [place(p, q) for first, second in zip(one, other, strict=True) for p, q in zip(first, second, strict=True)]
    largest, mean, kl, same, led = (np.array(column) for column in zip(*rows, strict=True))
    return Distance(
        tokens=len(rows),
        largest=float(largest.max()),
        mean=float(mean.mean()),
        kl=float(kl.mean()),
        top1=float(same.mean()),
        decided=float(same[led].mean()) if led.any() else None,
    )


def place(p: NDArray[np.float32], q: NDArray[np.float32]) -> tuple[float, float, float, bool, bool]:
    """(largest, mean, kl, same, led) of one place."""
    size = min(len(p), len(q))
    told = ~np.isnan(q[:size])
    a, b = p[:size][told].astype(np.float64), q[:size][told].astype(np.float64)
    if not len(a):  # its numbers are none
        return np.inf, np.inf, np.inf, False, False
    with np.errstate(invalid="ignore"):
        gaps = np.where(a == b, 0.0, np.abs(a - b) / np.maximum(1, np.abs(a)))  # both may rule a token out
    second, first = np.partition(p, -2)[-2:]
    same = int(p.argmax()) == int(np.flatnonzero(told)[b.argmax()])
    largest = float(np.nan_to_num(gaps, nan=np.inf).max())
    return largest, float(gaps.mean()), divergence(a, b), same, bool(first - second >= DECIDED)


def divergence(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """KL(p ‖ q) in nats of log-probabilities a and b; what they do not tell counts as one more token, so it is a lower
    bound then (the data processing inequality)."""
    p, q = np.exp(a), np.exp(b)
    inside = p > 0
    rest, other = max(0.0, 1 - p.sum()), max(1e-12, 1 - q.sum())
    outside = rest * (np.log(rest) - np.log(other)) if rest > 1e-6 else 0.0
    return max(0.0, float((p[inside] * (a[inside] - b[inside])).sum() + outside))


def exact(trained: Said, found: Said, asked: Asked) -> Stage:
    """`runtime`, of what computes in float32: the same distributions and the same greedy answers."""
    if found.logs is None or trained.logs is None:
        return Stage(RUNTIME, "not checked", f"{found.name} cannot be asked for probabilities")
    distance = apart(trained.logs, found.logs)
    figures = distance.to_json() | {"tolerance": found.tolerance}
    if not distance.largest <= found.tolerance:
        detail = (
            f"{found.name} does not compute what {trained.name} did: log-probabilities lie up to "
            f"{distance.largest:.2g} apart, and {found.tolerance:g} is allowed"
        )
        return Stage(RUNTIME, "failed", detail, figures)
    other = greedy(trained, found, asked)
    if other is not None:
        detail = f"{found.name} gives another greedy answer to prompt {other + 1}"
        return Stage(RUNTIME, "failed", detail, figures)
    count = sum(answer is not None for answer in found.answers)
    told = f"the distributions of {distance.tokens} tokens lie at most {distance.largest:.1g} apart"
    detail = f"{told}; {count} greedy answers of {GREEDY} tokens are the same"
    return Stage(RUNTIME, "ok", detail, figures | {"greedy": count})


def greedy(trained: Said, found: Said, asked: Asked) -> int | None:
    """The first prompt whose greedy answer is another one; where two tokens are as likely, either is right."""
    assert trained.logs is not None
    logs = trained.logs[len(trained.logs) - len(asked.prompts) :]
    for number, (prompt, one, other) in enumerate(zip(asked.prompts, trained.answers, found.answers, strict=True)):
        if one is None or other is None or one == other:
            continue
        at = next((at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), None)
        if at is None or len(one) != len(other):
            return number
        second, first = np.partition(logs[number][len(prompt) - 1 + at], -2)[-2:]
        if first - second > TIE:
            return number
    return None


def rounded(trained: Said, found: Said, quant: str) -> Stage:
    """`quantisation`: what the stored number type costs, held to its bound."""
    bound = BOUNDS[quant]
    if found.logs is None or trained.logs is None:
        return Stage(QUANT, "not checked", f"{found.name} cannot be asked for probabilities", {"type": quant})
    distance = apart(trained.logs, found.logs)
    figures = {"type": quant, **distance.to_json(), "bound": vars(bound)}
    told = f"stored as {quant}: KL {distance.kl:.2g} nats, {distance.top1:.0%} of the likeliest tokens the same"
    if not distance.kl <= bound.kl:
        return Stage(QUANT, "failed", f"{told}; a KL of {bound.kl:g} is allowed", figures)
    if distance.decided is not None and distance.decided < bound.top1:
        detail = f"{told}, {distance.decided:.0%} of the clear ones; {bound.top1:.0%} of those must be"
        return Stage(QUANT, "failed", detail, figures)
    return Stage(QUANT, "ok", told, figures)
