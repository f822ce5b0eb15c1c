"""How fast several models answer over one base, and how well: requests through the scheduler, as a server has them.

The models take turns, round by round and each round in another order, so that a machine that grows warm or busy favours
none. Answers are greedy, so that all of them can be repeated.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from truetune.engines.decoder import Sampling
from truetune.errors import ResourceError
from truetune.evaluate import metrics
from truetune.evaluate.metrics import METRICS
from truetune.serve.handle import Handle
from truetune.serve.names import Served
from truetune.serve.questions import Question
from truetune.serve.requests import Event, Request
from truetune.serve.scheduler import Scheduler

PERCENTILES = (50, 95, 99)
WARM = 4
"""Tokens of an answer that nobody measures: an adapter is brought to the device by its first."""
QUALITY = ("exact_match", "rougeL", "chrf")

Tell = Callable[[str, int, int], None]
"""Is told the model, how many of its requests are answered, and how many there are."""


@dataclass
class Timing:
    """One request: seconds from its start to each piece of text, to its end, and what it wrote."""

    pieces: list[float]
    total: float
    tokens: int
    text: str
    ended: bool


@dataclass
class Measured:
    """All requests of one model."""

    prompt_tokens: int = 0
    seconds: float = 0.0
    timings: list[Timing] = field(default_factory=list)
    answers: dict[int, Timing] = field(default_factory=dict)
    """By question: the first answer."""


@dataclass(frozen=True)
class Load:
    """How much is asked at once."""

    requests: int = 16
    """Of each model in each round."""
    concurrency: int = 4
    max_new_tokens: int = 64
    rounds: int = 2


def measure(
    scheduler: Scheduler, models: Mapping[str, Served], questions: Sequence[Question], load: Load, tell: Tell
) -> dict[str, dict[str, Any]]:
    """JSON-ready figures by model: see `figures`. Raises what `Voice.prompt` and `Scheduler.submit` raise,
    ResourceError where an answer fails."""
    ready = {name: prompts(served, questions, load) for name, served in models.items()}
    found = {name: Measured() for name in models}
    for requests in ready.values():
        answered(scheduler, replace(requests[0], sampling=replace(requests[0].sampling, max_new_tokens=WARM)))
    for number in range(load.rounds):
        names = list(models)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            before, total = load.requests * number, load.requests * load.rounds
            turn(scheduler, ready[name], found[name], load, partial(told, tell, name, before, total))
    return {
        name: figures(found[name]) | {"quality": quality(scheduler, models[name], questions, found[name])}
        for name in models
    }


def told(tell: Tell, name: str, before: int, total: int, done: int) -> None:
    tell(name, before + done, total)


def prompts(served: Served, questions: Sequence[Question], load: Load) -> list[Request]:
    """A request for each question."""
    drawn = served.voice.sampling(temperature=0.0, max_new_tokens=load.max_new_tokens)
    return [Request(rendered(served, each), served.key, drawn) for each in questions]


def rendered(served: Served, question: Question) -> tuple[int, ...]:
    if question.ids:
        return question.ids
    return tuple(served.voice.prompt([*question.history, {"role": "user", "content": question.text}]))


def turn(
    scheduler: Scheduler, requests: Sequence[Request], found: Measured, load: Load, tell: Callable[[int], None]
) -> None:
    """One round of one model: its requests, as many at once as asked for."""
    lock, done = threading.Lock(), 0

    def one(number: int) -> None:
        nonlocal done
        request = requests[number % len(requests)]
        timing = answered(scheduler, request)
        with lock:
            found.timings.append(timing)
            found.answers.setdefault(number % len(requests), timing)
            found.prompt_tokens += len(request.ids)
            done += 1
            tell(done)

    began = time.perf_counter()
    with ThreadPoolExecutor(load.concurrency) as pool:
        list(pool.map(one, range(load.requests)))
    found.seconds += time.perf_counter() - began


def answered(scheduler: Scheduler, request: Request) -> Timing:
    """A request from its start to its end. Raises ResourceError where it is ended by something else."""
    began = time.perf_counter()
    pieces, texts, last = [], [], Event(0)
    for last in scheduler.submit(request):
        if last.text or last.tokens:
            pieces.append(time.perf_counter() - began)
            texts.append(last.text)
    total = time.perf_counter() - began
    if last.reason not in ("stop", "length"):
        raise last.error or ResourceError(
            "an answer was given up", code="benchmark.failed", hint="Ask for less at once: --concurrency 1."
        )
    return Timing(pieces or [total], total, last.made, "".join(texts), last.reason == "stop")


def figures(found: Measured) -> dict[str, Any]:
    """Seconds: until the first text, between pieces of text (nearly always one token each), of a whole request;
    tokens/s over all requests that ran at once, and of one answer."""
    tokens = sum(timing.tokens for timing in found.timings)
    gaps = [gap for timing in found.timings for gap in np.diff(timing.pieces).tolist()]
    return {
        "requests": len(found.timings),
        "prompt_tokens": found.prompt_tokens,
        "tokens": tokens,
        "seconds": found.seconds,
        "tokens_per_second": tokens / found.seconds,
        "first_token": spread([timing.pieces[0] for timing in found.timings]),
        "between_tokens": spread(gaps),
        "request": spread([timing.total for timing in found.timings]),
    }


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """{avg, min, max, p50, p95, p99}; None of nothing."""
    if not values:
        return None
    points = np.percentile(values, PERCENTILES)
    named = {f"p{rank}": float(point) for rank, point in zip(PERCENTILES, points, strict=True)}
    return {"avg": float(np.mean(values)), "min": min(values), "max": max(values)} | named


def quality(
    scheduler: Scheduler, served: Served, questions: Sequence[Question], found: Measured
) -> dict[str, float] | None:
    """Perplexity of the rows, and what their references say of the answers; None where there are no rows.

    Answers are as long as the benchmark lets them be: a reference that is longer counts against all models alike.
    """
    scored = {"loss": [row for each in questions for row in losses(scheduler, served, each)]}
    for place, timing in sorted(found.answers.items()):
        reference = questions[place].reference
        for name, sums in metrics.of_answer(timing.text, reference, timing.ended).items() if reference else ():
            scored.setdefault(name, []).append(sums)
    named = {"perplexity": scored["loss"]} | {name: scored.get(name, []) for name in QUALITY}
    known = {name: float(METRICS[name].of(np.sum(rows, axis=0))) for name, rows in named.items() if rows}
    return known or None


def losses(scheduler: Scheduler, served: Served, question: Question) -> Iterator[list[float]]:
    """[−Σ w · log p, Σ w] of each of a row's examples."""
    drawn = Sampling(max_new_tokens=1, prompt_logprobs=0)
    for example in question.examples:
        if len(example.ids) >= scheduler.decoder.context:
            continue
        handle: Handle = scheduler.submit(Request(tuple(map(int, example.ids)), served.key, drawn))
        told = next((event.prompt for event in list(handle) if event.prompt), ())
        logs = np.array([0.0 if each is None else each.logprob for each in told])
        weights = example.weights.astype(np.float64)
        yield [-float(weights @ logs), float(weights.sum())]
